"""Examples as people paste them: JSON lines, or an input, a tab and an answer on each line."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOTS, HELD_OUT = "shots", "held_out"


@dataclass(frozen=True)
class Row:
    """An example with the place where its writer finds it again: a row, or a line of a paste."""

    input: str
    target: str
    number: int
    place: str = "row"  # or "line"

    @property
    def pair(self) -> list[str]:
        return [self.input, self.target]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one example, and where: `field` is "input", "target" or "" (the line)."""

    split: str
    place: str
    number: int
    field: str
    message: str

    def __str__(self) -> str:
        if not self.number:
            return self.message
        what = "held-out " if self.split == HELD_OUT else ""
        field = {"input": ", input", "target": ", answer"}.get(self.field, "")
        text = f"{what}{self.place} {self.number}{field}: {self.message}"
        return text[0].upper() + text[1:]


def parse_examples(text: str, split: str = SHOTS) -> tuple[list[Row], list[Problem]]:
    """Read pasted examples; a line that cannot be read becomes a problem, the others are kept."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        return [], []
    first = lines[0][1].lstrip()
    read = _read_json if first.startswith(("{", "[")) else _read_tabs
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in lines:
        if number == lines[0][0] and _is_heading(line):
            continue
        found = read(line)
        if isinstance(found, str):
            problems.append(Problem(split, "line", number, "", found))
        else:
            rows.append(Row(*found, number, "line"))
    return rows, problems


def as_text(pairs: Iterable[Sequence[str]]) -> str:
    """Examples as lines that `parse_examples` reads back to the same examples."""
    pairs = [tuple(pair) for pair in pairs]
    plain = all(_fits_a_line(part) for pair in pairs for part in pair)
    if plain and not (pairs and (_is_heading("\t".join(pairs[0])) or pairs[0][0][:1] in "{[")):
        return "\n".join("\t".join(pair) for pair in pairs)
    return "\n".join(
        json.dumps({"input": given, "target": wanted}, ensure_ascii=False)
        for given, wanted in pairs
    )


def _read_tabs(line: str) -> tuple[str, str] | str:
    parts = line.split("\t")
    if len(parts) == 1:
        return "There is no tab. Write the input, a tab, then the answer."
    if len(parts) > 2:
        return f"There are {len(parts) - 1} tabs. Write one, between the input and the answer."
    return parts[0].strip(), parts[1].strip()


def _read_json(line: str) -> tuple[str, str] | str:
    try:
        found = json.loads(line)
    except ValueError as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not readable"
        return f'This is not JSON ({reason}). Write {{"input": "…", "target": "…"}} on each line.'
    except RecursionError:
        return "This JSON is nested too deeply."
    if not isinstance(found, dict):
        return 'Write one object a line: {"input": "…", "target": "…"}.'
    for key in ("input", "target"):
        if key not in found:
            return f'"{key}" is missing. Each line needs "input" and "target".'
        if not isinstance(found[key], str):
            return f'"{key}" is {_kind(found[key])}; write it as text, in quotation marks.'
    return found["input"], found["target"]


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "nothing" if value is None else "an object")


def _is_heading(line: str) -> bool:
    return [part.strip().lower() for part in line.split("\t")] in (
        ["input", "target"],
        ["input", "answer"],
        ["input", "output"],
    )


def _fits_a_line(text: str) -> bool:
    return text == text.strip() and "\t" not in text and not {"\n", "\r"} & set(text)

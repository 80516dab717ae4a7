"""A repo's README.md: the front matter that programs read, and the words that people read.

`read` says what a card says. `with_facts` adds what it does not say yet; `with_changes` is for
the owner who edits it. Both leave the author's own lines as they are, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from composer.engine.errors import CommonsError
from modules import licences

LIMIT = 200_000
FRONT_MATTER_LIMIT = 16_384
MOST_TAGS = 20
TAG = re.compile(r"[\w][\w .:/+-]{0,59}")
# What programs put there by themselves: such tags do not say what a module is good at.
MACHINE_TAGS = frozenset(
    {"lora", "peft", "transformers", "trl", "sft", "dpo", "grpo", "unsloth", "axolotl"}
    | {"generated_from_trainer", "llama-factory", "adapter", "safetensors", "full"}
)
HEADING = re.compile(r"^#{1,6}[ \t]+[^\n]*$", re.MULTILINE)
NOT_FILLED_IN = "[More Information Needed]"
TRAINING_DATA = re.compile(r"training (data|set|corpus)|datasets?$|trained on", re.IGNORECASE)
NOT_FOR = re.compile(
    r"out[- ]of[- ]scope|not (meant |made |intended )?for|limitations|limits$|misuse", re.IGNORECASE
)
# Tasks that the Hub knows by name; any other is a `task` of our own.
PIPELINES = (
    "text-generation", "text-classification", "token-classification", "question-answering",
    "summarization", "translation", "text2text-generation", "fill-mask", "sentence-similarity",
    "feature-extraction", "zero-shot-classification", "table-question-answering",
    "text-ranking", "image-text-to-text", "automatic-speech-recognition", "text-to-image",
    "text-to-speech", "image-classification",
)  # fmt: skip


class BadCard(CommonsError):
    code = "bad_card"

    def __init__(self, message: str) -> None:
        super().__init__(message, fields={"files": [message]})


@dataclass(frozen=True)
class Card:
    """What a card says of its module. Whatever is missing or odd is left empty."""

    text: str = ""
    summary: str = ""
    licence: str = ""
    language: str = ""
    tags: tuple[str, ...] = ()
    task: str = ""
    training_data: str = ""
    not_for: str = ""
    base_model: str = ""
    title: str = ""


@dataclass(frozen=True)
class Facts:
    """What an author types into the form; what is empty was not said."""

    name: str = ""
    description: str = ""
    licence: str = ""
    language: str = ""
    tags: tuple[str, ...] = ()
    task: str = ""
    training_data: str = ""
    not_for: str = ""
    base_model: str = ""


def read(data: bytes) -> Card:
    text = data[:LIMIT].decode("utf-8", errors="replace").replace("\0", "").removeprefix("\ufeff")
    head, body = split(text)
    said = _front_matter(head)
    tags = dict.fromkeys(_lines(said.get("tags")))
    heading = HEADING.search(_without_code(body))
    return Card(
        text=body,
        summary=one_line(said.get("summary")) or _first_paragraph(body),
        licence=licences.canonical(one_line(said.get("license") or said.get("licence"))[:60]),
        language=", ".join(_languages(said.get("language")))[:40],
        tags=tuple(t for t in tags if TAG.fullmatch(t) and not t.startswith("base_model:"))[
            :MOST_TAGS
        ],
        task=one_line(said.get("task") or said.get("pipeline_tag"))[:60],
        training_data=_section(body, TRAINING_DATA)[0] or ", ".join(_lines(said.get("datasets"))),
        not_for=_section(body, NOT_FOR)[0],
        base_model=next(iter(_lines(said.get("base_model"))), ""),
        title=_title(heading) if heading and "Model Card for" not in heading.group() else "",
    )


def missing(card: Card) -> set[str]:
    """Which of the form's questions this card leaves open."""
    said = {
        "description": card.summary,
        "licence": card.licence,
        "language": card.language,
        "tags": [tag for tag in card.tags if tag.lower() not in MACHINE_TAGS],
        "task": card.task,
        "training_data": card.training_data,
        "not_for": card.not_for,
    }
    return {name for name, value in said.items() if not value}


def check(data: bytes) -> None:
    """Refuse what could not be read as its author meant it."""
    if len(data) > 4 * LIMIT:
        raise BadCard(f"README.md has {len(data):,} bytes; {4 * LIMIT:,} are the most for a card.")
    decode(data)
    head, _ = split(decode(data))
    if head is not None:
        _front_matter(head, strict=True)


def decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadCard(
            f"README.md is not UTF-8 text: byte {error.start} cannot be read. Save it as UTF-8."
        ) from error


def with_facts(text: str, facts: Facts) -> str:
    """The card with what it does not say yet. What it says stays as its author wrote it."""
    if facts == Facts():
        return text
    card = read(text.encode())
    open_questions = missing(card)
    changes: dict[str, Any] = {}
    if facts.licence and "licence" in open_questions:
        changes["license"] = facts.licence
    if facts.language and "language" in open_questions:
        changes["language"] = one_or_more(facts.language)
    if facts.base_model and not card.base_model:
        changes["base_model"] = facts.base_model
    if facts.tags and "tags" in open_questions:
        head, _ = split(text)
        there = _lines(_front_matter(head).get("tags"))
        changes["tags"] = list(dict.fromkeys([*there, *facts.tags]))
    if facts.task and "task" in open_questions:
        changes["pipeline_tag" if facts.task in PIPELINES else "task"] = facts.task
    text = with_front_matter(text, changes)
    head, body = split(text)
    front = text[: len(text) - len(body)]
    newline = "\r\n" if "\r\n" in text else "\n"
    if not body.strip():
        body = f"{newline if front else ''}# {facts.name or 'LoRA module'}{newline}"
    if facts.description and "description" in open_questions:
        body = _after_heading(body, facts.description, newline)
    for name, title, pattern in (
        ("training_data", "Training data", TRAINING_DATA),
        ("not_for", "What it is not for", NOT_FOR),
    ):
        if (value := getattr(facts, name)) and name in open_questions:
            body = _with_section(body, title, pattern, value, newline)
    return front + body


def with_changes(text: str, changes: Mapping[str, Any], body: str | None = None) -> str:
    """The card after its owner edited it: these keys replaced (None takes one away), and the body
    when it was changed. Keys that the form does not know stay."""
    text = with_front_matter(text, changes)
    _, old = split(text)
    if body is None or _plain(body) == _plain(old):
        return text
    newline = "\r\n" if "\r\n" in old else "\n"
    return text[: len(text) - len(old)] + _plain(body).replace("\n", newline)


def split(text: str) -> tuple[str | None, str]:
    """The YAML between a card's two lines of dashes (None when there is none), and the rest."""
    lines = text.splitlines(keepends=True)
    if not lines or lines[0].removeprefix("\ufeff").rstrip() != "---":
        return None, text
    for index, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return "".join(lines[1:index]), "".join(lines[index + 1 :])
    return None, text


def front_matter(text: str) -> dict[str, Any]:
    """What the front matter says, odd values and unknown keys included."""
    return _front_matter(split(text)[0])


def machine_tags(said: Mapping[str, Any]) -> list[str]:
    """Tags by which the Hub finds what a module was trained on. No form shows them."""
    return [tag for tag in _lines(said.get("tags")) if tag.startswith("base_model:")]


def with_front_matter(text: str, changes: Mapping[str, Any]) -> str:
    """Replace, add or (None) take away keys; every other line stays as it is."""
    head, body = split(text)
    before = _front_matter(head, strict=True)
    changes = {key: value for key, value in changes.items() if before.get(key) != value}
    if not changes:
        return text
    wanted = {k: v for k, v in {**before, **changes}.items() if k not in changes or v is not None}
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = (head or "").splitlines(keepends=True)
    for key, value in changes.items():
        lines = _replaced(lines, key, value, newline)
    written = "".join(lines)  # anchors and odd indents can break it: then all of it anew
    # Compared as text: two values may share parts so often that comparing them takes for ever.
    if _dump(_front_matter(written), newline) != _dump(wanted, newline):
        written = _dump(wanted, newline)
    if head is None:
        gap = "" if not text or text.startswith(("\n", "\r")) else newline
        return f"---{newline}{written}---{newline}{gap}{text}" if written else text
    first = text[: text.index("---") + 3]
    return f"{first}{newline}{written}---{newline}{body}"


def _replaced(lines: list[str], key: str, value: Any, newline: str) -> list[str]:
    new = [] if value is None else [_dump({key: value}, newline)]
    start = next(
        (n for n, line in enumerate(lines) if re.match(rf"{re.escape(key)}\s*:", line)), None
    )
    if start is None:
        if lines and not lines[-1].endswith("\n"):
            lines = [*lines[:-1], lines[-1] + newline]
        return [*lines, *new]
    end = start + 1
    while end < len(lines) and (lines[end][0] in " \t-" or not lines[end].strip()):
        end += 1
    while end > start + 1 and not lines[end - 1].strip():
        end -= 1
    return [*lines[:start], *new, *lines[end:]]


def _dump(values: Mapping[str, Any], newline: str) -> str:
    if not values:
        return ""
    text = yaml.safe_dump(
        dict(values), allow_unicode=True, sort_keys=False, default_flow_style=False, width=1000
    )
    return text.replace("\n", newline)


class _Loader(yaml.SafeLoader):
    """Without what could not be written again: "\\0", half an emoji, numbers without end."""

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            why = "a character that no text can hold"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark)
        return value

    def construct_yaml_int(self, node: Any) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > 1_000:
            why = "a number that is too large"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _front_matter(head: str | None, *, strict: bool = False) -> dict[str, Any]:
    """The YAML as a mapping. A slip in it costs the facts, not the page, unless it is `strict`."""
    if head is None or len(head) > FRONT_MATTER_LIMIT:
        if head is not None and strict:
            raise BadCard(
                f"README.md's front matter is longer than {FRONT_MATTER_LIMIT:,} characters. Keep "
                "the facts between the two lines of dashes and move the rest below them."
            )
        return {}
    try:
        if re.search(r"<<\s*:", head):
            raise ValueError('"<<" is not understood here')
        said = yaml.load(head, Loader=_Loader)  # noqa: S506  a safe one
        if said is not None and not isinstance(said, dict):
            raise ValueError("it is not a list of keys with values")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if not strict:
            return {}
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 2}" if mark else ""
        why = getattr(error, "problem", None) or str(error) or "it cannot be read"
        raise BadCard(
            f"README.md's front matter is not valid YAML{where}: {why}. Mend what stands between "
            "its two lines of dashes."
        ) from error
    return said or {}


def one_line(value: Any) -> str:
    return " ".join(value.split())[:300] if isinstance(value, str) else ""


def _lines(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [said for said in map(one_line, values) if said]


def _languages(value: Any) -> list[str]:
    """YAML reads Norwegian, `no`, as false."""
    values = value if isinstance(value, list) else [value]
    return _lines(["no" if one is False else one for one in values])


def one_or_more(text: str) -> str | list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return parts[0] if len(parts) == 1 else parts


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _first_paragraph(body: str) -> str:
    body = re.sub(r"<!--.*?(-->|\Z)", "", body, flags=re.DOTALL)
    if NOT_FILLED_IN in body:  # a template: what follows its first gap is not the author's
        body = body[: body.index(NOT_FILLED_IN)]
    for paragraph in re.split(r"\n\s*\n", body):
        line = " ".join(paragraph.split())
        if line and not re.match(r"[#>|<!`*\-=\[]", line):
            # Bounded: for a great many open brackets the pattern below would take hours.
            plain = re.sub(r"[`*]|(?<!\w)_|_(?!\w)", "", line[:2_000])
            return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", plain)[:300]
    return ""


def _title(heading: re.Match[str]) -> str:
    return one_line(heading.group().strip("# \t\r").replace("[optional]", ""))


def _without_code(body: str) -> str:
    """The same length, so that places stay; what stands in fences is no heading."""
    return re.sub(
        r"^(```|~~~).*?^\1[^\n]*$",
        lambda found: re.sub(r"[^\n]", " ", found.group()),
        body,
        flags=re.MULTILINE | re.DOTALL,
    )


def _section(body: str, pattern: re.Pattern[str]) -> tuple[str, tuple[int, int] | None]:
    """What stands below the first heading of this kind that has something below it; else the
    place below the first that has nothing."""
    headings = list(HEADING.finditer(_without_code(body)))
    ends = [*(heading.start() for heading in headings[1:]), len(body)]
    gap = None
    for heading, end in zip(headings, ends, strict=False):
        if not pattern.search(_title(heading)):
            continue
        place = (heading.end(), end)
        plain = re.sub(r"<!--.*?(-->|\Z)", "", body[slice(*place)], flags=re.DOTALL)
        if said := plain.replace(NOT_FILLED_IN, "").strip():
            return said[:2000], place
        gap = gap or place
    return "", gap


def _with_section(body: str, title: str, pattern: re.Pattern[str], value: str, newline: str) -> str:
    value = _plain(value.strip()).replace("\n", newline)
    _, gap = _section(body, pattern)
    if gap is None:
        return f"{body.rstrip()}{newline * 2}## {title}{newline * 2}{value}{newline}"
    there = body[slice(*gap)]
    if NOT_FILLED_IN in there:
        there = there.replace(NOT_FILLED_IN, value, 1)
    else:
        there = f"{there.rstrip()}{newline * 2}{value}{newline * 2}"
    return body[: gap[0]] + there + body[gap[1] :]


def _after_heading(body: str, description: str, newline: str) -> str:
    """The description below the title, or first of all where there is no title."""
    description = _plain(description.strip()).replace("\n", newline)
    found = re.match(r"\s*#[ \t]+[^\n]*(\n|\Z)", body)
    place = found.end() if found else 0
    above, below = body[:place].rstrip("\r\n"), body[place:].lstrip("\r\n")
    parts = [part for part in (above, description, below) if part.strip()]
    return (newline * 2).join(parts) if below else (newline * 2).join(parts) + newline

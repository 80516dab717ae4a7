"""What may enter a search: a task's examples, options and prompt, each mistake where it stands."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer.engine import chat
from composer.engine import examples as engine_examples
from composer.engine.errors import BadExamples
from composer.engine.prompt import Template, TokenCounter
from composer.example_text import HELD_OUT, SHOTS, Problem, Row
from modules.models import BaseModel

MOST_ANSWER_OPTIONS = 200
PROBLEMS_SHOWN = 20


def check_task(
    base_model: BaseModel,
    shots: Sequence[engine_examples.Example],
    held_out: Sequence[engine_examples.Example],
    template: str,
    answer_options: Sequence[str],
) -> None:
    """Raise BadExamples for anything that must not enter a search."""
    engine_examples.check(
        shots, held_out, token_counter(base_model), base_model.max_tokens, Template(template)
    )
    if message := wrong_options(answer_options):
        raise BadExamples(message, part="answer_options")
    for split, part in ((shots, "examples"), (held_out, "held_out")):
        for line, example in enumerate(split, 1):
            if answer_options and example.target not in answer_options:
                raise BadExamples(
                    f"The answer {example.target!r} in line {line} is no answer option.",
                    line=line,
                    field="target",
                    part=part,
                )


def wrong_options(answer_options: Sequence[str]) -> str:
    """What is wrong with them as a list, or nothing."""
    if len(set(answer_options)) != len(answer_options):
        return "An answer option is given twice."
    if len(answer_options) == 1:
        return "Give two answer options or more, or none."
    if len(answer_options) > MOST_ANSWER_OPTIONS:
        return (
            f"There are {len(answer_options)} answer options; give at most {MOST_ANSWER_OPTIONS}."
        )
    return ""


def find_problems(
    shots: Sequence[Row],
    held_out: Sequence[Row],
    *,
    base_model: BaseModel | None = None,
    template: str = "{input}",
    answer_options: Sequence[str] = (),
) -> list[Problem]:
    """Everything wrong with the examples of a form, each where its writer finds it.

    The rules are those of `composer.engine.examples.check`, which stops at the first.
    """
    problems: list[Problem] = []
    if not shots:
        problems.append(Problem(SHOTS, "", 0, "", "Give at least one example."))
    for split, rows, most in (
        (SHOTS, shots, engine_examples.MOST_EXAMPLES),
        (HELD_OUT, held_out, engine_examples.MOST_HELD_OUT),
    ):
        if len(rows) > most:
            message = f"There are {len(rows)} examples; give at most {most}."
            problems.append(Problem(split, "", 0, "", message))
    first_seen: dict[str, tuple[str, Row]] = {}
    measure = _length_check(base_model, template)
    for split, row in [*((SHOTS, row) for row in shots), *((HELD_OUT, row) for row in held_out)]:
        for name, text, what in (
            ("input", row.input, "input"),
            ("target", row.target, "answer"),
        ):
            if message := _wrong_text(text, what) or measure(name, text):
                problems.append(Problem(split, row.place, row.number, name, message))
        if answer_options and row.target and row.target not in answer_options:
            message = f"{row.target!r} is not among the answer options."
            problems.append(Problem(split, row.place, row.number, "target", message))
        key = " ".join(row.input.split())
        if key and key in first_seen:
            message = _repeats(split, *first_seen[key])
            problems.append(Problem(split, row.place, row.number, "input", message))
        first_seen.setdefault(key, (split, row))
    return problems[:PROBLEMS_SHOWN]


@dataclass(frozen=True)
class PromptPreview:
    """What the model will read for one input, and how long that is."""

    prompt: str
    tokens: int | None
    max_tokens: int
    pieces: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.tokens is None or self.tokens <= self.max_tokens


def preview_prompt(base_model: BaseModel, template: str, given: str) -> PromptPreview:
    prompt = Template(template).render(given)
    counter = token_counter(base_model)
    pieces = counter.tokens(prompt) if counter else []
    count = len(pieces) if counter else None
    return PromptPreview(prompt, count, base_model.max_tokens, pieces)


def token_counter(base_model: BaseModel) -> TokenCounter | None:
    """The base model's own tokenizer, or None where its file is not on this machine."""
    from modules.storage.local import tokenizer_path

    path = tokenizer_path(base_model)
    if path is None:
        return None
    # Of base models that stay on the Hub only tokenizer.json is here: the few tokens of a chat
    # template are not counted then, and the worker says what is too long.
    asks = base_model.source == base_model.FOLDER and not base_model.is_encoder_decoder
    return _counter(path, path.stat().st_mtime_ns, path.parent if asks else None)


# --- private -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _counter(path: Path, changed: int, chat_in: Path | None) -> TokenCounter:
    return TokenCounter(path, chat.of_folder(chat_in) if chat_in else None)


def _length_check(base_model: BaseModel | None, template: str) -> Any:
    counter = token_counter(base_model) if base_model else None
    if counter is None or base_model is None:
        return lambda name, text: ""
    most = base_model.max_tokens
    render = Template(template).render

    def measure(name: str, text: str) -> str:
        count = counter.count_prompt(render(text)) if name == "input" else counter.count(text)
        if count <= most:
            return ""
        return f"This is {count} tokens long; the model reads at most {most}. Shorten it."

    return measure


def _wrong_text(text: str, what: str) -> str:
    if not text.strip():
        return f"The {what} is empty."
    if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return f"The {what} holds characters that are not text. Retype it."
    return ""


def _repeats(split: str, first_split: str, first: Row) -> str:
    if split == first_split:
        return f"This input repeats {first.place} {first.number}. Remove one of them."
    return (
        f"This input is also in {first.place} {first.number} of the examples. An answer that the "
        "search has seen proves nothing: remove one of them."
    )

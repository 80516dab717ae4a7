"""Labelled examples: reading and checking them (no torch here until `encode` is called)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from composer.engine.errors import BadExamples
from composer.engine.prompt import Template, is_text

if TYPE_CHECKING:
    from composer.engine.batch import Batch

MOST_EXAMPLES = 200
MOST_HELD_OUT = 2000
TARGET_NAMES = ("target", "output")


@dataclass(frozen=True)
class Example:
    input: str
    target: str


class Counter(Protocol):
    def count(self, text: str) -> int: ...

    def count_prompt(self, prompt: str) -> int: ...


def read_jsonl(text: str, part: str = "examples") -> list[Example]:
    """One JSON object a line, with "input" and "target"; empty lines are skipped."""
    examples = []
    # Only a newline ends a line: splitlines() would also cut at U+2028 and the like in a text.
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            document = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise BadExamples(
                f"Line {line} is not JSON. Write one object a line, such as "
                '{"input": "big", "target": "small"}.',
                line=line,
                part=part,
            ) from error
        examples.append(_example(document, line, part))
    return examples


def check(
    examples: Sequence[Example],
    held_out: Sequence[Example] = (),
    counter: Counter | None = None,
    max_tokens: int | None = None,
    template: Template | None = None,
) -> None:
    """Raise BadExamples, naming line and field, for anything that must not enter a search."""
    if not 1 <= len(examples) <= MOST_EXAMPLES:
        raise BadExamples(f"There are {len(examples)} examples; give 1 to {MOST_EXAMPLES}.")
    if len(held_out) > MOST_HELD_OUT:
        raise BadExamples(
            f"There are {len(held_out)} held-out examples; give at most {MOST_HELD_OUT}.",
            part="held_out",
        )
    seen: dict[str, tuple[str, int]] = {}
    for part, rows in (("examples", examples), ("held_out", held_out)):
        for line, example in enumerate(rows, 1):
            _check_texts(example, line, part)
            _check_length(example, line, part, counter, max_tokens, template or Template())
            first = seen.setdefault(" ".join(example.input.split()), (part, line))
            if first != (part, line):
                raise BadExamples(
                    _repeated(line, part, *first), line=line, field="input", part=part
                )


def encode(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Any,
    *,
    is_encoder_decoder: bool = True,
    padding_side: str | None = None,
) -> Batch:
    """Examples as tensors; see `composer.engine.batch`."""
    from composer.engine import batch

    return batch.encode(
        examples,
        template,
        tokenizer,
        is_encoder_decoder=is_encoder_decoder,
        padding_side=padding_side,
    )


def _example(document: Any, line: int, part: str) -> Example:
    if not isinstance(document, dict):
        raise BadExamples(f"Line {line} is not a JSON object.", line=line, part=part)
    target = next((document[name] for name in TARGET_NAMES if name in document), None)
    for field, value in (("input", document.get("input")), ("target", target)):
        if not isinstance(value, str):
            raise BadExamples(
                f"Line {line} has no text in {field!r}. Write "
                '{"input": "big", "target": "small"}.',
                line=line,
                field=field,
                part=part,
            )
    return Example(input=document["input"], target=str(target))


def _fields(example: Example) -> Iterable[tuple[str, str]]:
    return (("input", example.input), ("target", example.target))


def _check_texts(example: Example, line: int, part: str) -> None:
    for field, text in _fields(example):
        if not text.strip():
            raise BadExamples(
                f"The {field} in line {line} is empty. Fill it in or remove the line.",
                line=line,
                field=field,
                part=part,
            )
        if not is_text(text):
            raise BadExamples(
                f"The {field} in line {line} holds characters that are not text. Retype it.",
                line=line,
                field=field,
                part=part,
            )


def _check_length(
    example: Example,
    line: int,
    part: str,
    counter: Counter | None,
    max_tokens: int | None,
    template: Template,
) -> None:
    if counter is None or max_tokens is None:
        return
    for field, count in (
        ("input", counter.count_prompt(template.render(example.input))),
        ("target", counter.count(example.target)),
    ):
        if count > max_tokens:
            raise BadExamples(
                f"The {field} in line {line} has {count} tokens, with the template; the model "
                f"reads at most {max_tokens}. Shorten it.",
                line=line,
                field=field,
                part=part,
            )


def _repeated(line: int, part: str, first_part: str, first_line: int) -> str:
    if part == first_part:
        return f"The input in line {line} repeats line {first_line}. Remove one of them."
    return (
        f"The input in line {line} of the held-out examples is also in line {first_line} of the "
        "examples. An answer that the search has seen proves nothing: remove one of them."
    )

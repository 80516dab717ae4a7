from __future__ import annotations

import pytest

from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED
from composer.engine.errors import BadExamples
from composer.engine.examples import Example, check, encode, read_jsonl
from composer.engine.prompt import Template, TokenCounter, normalise_answer
from tests.engine.conftest import EXAMPLES, TEMPLATE

GOOD = [Example("big", "small"), Example("hot", "cold")]


def test_it_reads_a_line_an_example() -> None:
    text = '{"input": "big", "target": "small"}\n\n{"input": "hot", "output": "cold"}\n'
    assert read_jsonl(text) == GOOD


def test_a_line_ends_at_a_newline_and_nowhere_else() -> None:
    text = '{"input": "a\u2028b\x85c", "target": "d\x0be"}\r\n'.replace("\x0b", "\\u000b")
    assert read_jsonl(text) == [Example("a\u2028b\x85c", "d\x0be")]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("big\tsmall", None),
        ("[]", None),
        ('{"target": "x"}', "input"),
        ('{"input": "x"}', "target"),
        ('{"input": "x", "target": 5}', "target"),
    ],
)
def test_it_names_the_line_that_cannot_be_read(line: str, field: str | None) -> None:
    with pytest.raises(BadExamples, match="^Line 2 ") as found:
        read_jsonl('{"input": "big", "target": "small"}\n' + line)
    assert (found.value.line, found.value.field) == (2, field)


@pytest.mark.parametrize(
    ("examples", "held_out", "line", "field", "words"),
    [
        ([], [], None, None, "0 examples"),
        ([Example(str(i), "x") for i in range(201)], [], None, None, "201 examples"),
        ([GOOD[0], Example(" ", "x")], [], 2, "input", "empty"),
        ([Example("x", "\n")], [], 1, "target", "empty"),
        ([Example("x", "a\x00")], [], 1, "target", "not text"),
        ([Example("x", "\ud800")], [], 1, "target", "not text"),
        ([*GOOD, Example(" big ", "tiny")], [], 3, "input", "repeats line 1"),
        (GOOD, [Example("new", "old"), Example("hot", "cold")], 2, "input", "line 2 of the"),
        (GOOD, [Example("", "old")], 1, "input", "empty"),
    ],
)
def test_it_refuses_examples_by_line_and_field(
    examples: list[Example],
    held_out: list[Example],
    line: int | None,
    field: str | None,
    words: str,
) -> None:
    with pytest.raises(BadExamples, match=words) as found:
        check(examples, held_out)
    assert (found.value.line, found.value.field) == (line, field)
    assert found.value.part == ("held_out" if held_out else "examples")


def test_it_counts_the_template_and_refuses_what_is_too_long(t5: BaseModel) -> None:
    counter = TokenCounter(t5.folder / "tokenizer.json")
    check(EXAMPLES, (), counter, 6, TEMPLATE)
    with pytest.raises(BadExamples, match="line 3 has 6 tokens.*at most 5") as found:
        check(EXAMPLES, (), counter, 5, TEMPLATE)
    assert (found.value.line, found.value.field) == (3, "input")


def test_it_pads_without_changing_what_is_read(t5: BaseModel) -> None:
    batch = encode(EXAMPLES, TEMPLATE, t5.tokenizer)
    for row, example in enumerate(EXAMPLES):
        ids = batch.input_ids[row][batch.attention_mask[row].bool()]
        labels = batch.labels[row][batch.labels[row] != IGNORED]
        assert ids.tolist() == t5.tokenizer(TEMPLATE.render(example.input)).input_ids
        assert labels.tolist() == t5.tokenizer(example.target).input_ids
    assert batch.answer_tokens.tolist() == [2, 2, 2, 3, 2]


@pytest.mark.parametrize("text", ["", "no slot", "{input} and {input}"])
def test_a_template_has_one_slot(text: str) -> None:
    with pytest.raises(BadExamples, match="exactly once"):
        Template(text)


def test_a_template_leaves_other_braces_alone() -> None:
    assert Template("{x} {input} }{").render("{input}%s") == "{x} {input}%s }{"


@pytest.mark.parametrize("text", ["small", " Small. ", "SMALL", "small ."])
def test_answers_are_compared_as_lorahub_does(text: str) -> None:
    assert normalise_answer(text) == "small"
    assert normalise_answer("3.5") == "3.5"

"""Pasted examples, read line by line."""

import pytest

from composer.example_text import HELD_OUT, as_text, parse_examples


def read(text: str) -> list[tuple[str, str, int]]:
    rows, problems = parse_examples(text)
    assert problems == []
    return [(row.input, row.target, row.number) for row in rows]


def complaint(text: str) -> str:
    _, problems = parse_examples(text, HELD_OUT)
    return "; ".join(map(str, problems))


def test_it_reads_tabs_and_json_lines() -> None:
    assert read("big\tsmall\r\n\r\n hot \t cold\n") == [("big", "small", 1), ("hot", "cold", 3)]
    assert read('{"input": " a\\tb", "target": "c\\nd"}\n') == [(" a\tb", "c\nd", 1)]
    assert read("input\ttarget\nbig\tsmall") == [("big", "small", 2)]
    assert read("  \n") == []


def test_it_keeps_good_lines_beside_bad_ones() -> None:
    rows, problems = parse_examples("big\tsmall\nhot cold\na\tb\tc\nup\tdown")
    assert [row.number for row in rows] == [1, 4]
    assert [(problem.number, problem.place) for problem in problems] == [(2, "line"), (3, "line")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("big small", "Held-out line 1: there is no tab"),
        ("a\tb\tc", "there are 2 tabs"),
        ('{"input": "a"}', '"target" is missing'),
        ('{"input": "a", "target": 3}', '"target" is a number'),
        ('{"input": null, "target": "b"}', '"input" is nothing'),
        ('{"input": "a", "target": "b"', "this is not json"),
        ('["a", "b"]', "write one object a line"),
        ("[" * 100_000, "json"),
    ],
)
def test_it_says_what_is_wrong_with_a_line(text: str, words: str) -> None:
    assert words.lower() in complaint(text).lower()


@pytest.mark.parametrize(
    "pairs",
    [
        [("big", "small"), ("hot", "cold")],
        [("a\tb", "c\nd"), (" x ", "y")],
        [("input", "target"), ("a", "b")],
        [("{curly", "b")],
        [("[1]", "b")],
        [("line\rbreak", "b"), ("é\u2028ü", "ß")],
        [],
    ],
)
def test_what_it_writes_it_reads_back(pairs: list[tuple[str, str]]) -> None:
    assert [(given, wanted) for given, wanted, _ in read(as_text(pairs))] == pairs

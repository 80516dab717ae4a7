"""Scores between right and wrong, by hand."""

import pytest

from composer.engine.metrics import are_sentences, bleu, measure, rouge_l, token_f1


def test_token_f1_counts_the_words_that_both_have() -> None:
    assert token_f1("the big dog", "big dog runs fast") == pytest.approx(2 * 2 / 7)
    assert token_f1("Big.", "big") == 1.0
    assert token_f1("dog dog", "dog") == pytest.approx(2 / 3)
    assert token_f1("", "dog") == 0.0 and token_f1("", "") == 1.0


def test_rouge_l_is_of_the_longest_common_subsequence() -> None:
    """the cat sat down / the dog sat down: 3 of 4 words on both sides."""
    assert rouge_l("the cat sat down", "the dog sat down") == pytest.approx(0.75)


def test_bleu_is_one_for_the_same_text_only() -> None:
    wanted = ["the small cat sat down on the mat", "it was a dark night"]
    assert bleu(wanted, wanted) == pytest.approx(1.0)
    assert bleu(["the small cat stood up on the mat", "it was a dark night"], wanted) < 0.9


def test_words_are_no_sentences() -> None:
    assert not are_sentences(["small", "very cold"]) and are_sentences(["one two three four"])
    assert set(measure(["small", "cold"], ["small", "hot"])) == {"token_f1"}


def test_sentences_have_all_three_with_intervals() -> None:
    wanted = [f"the number {word} is a small one" for word in ("one", "two", "three", "four")]
    said = [*wanted[:2], "the number seven is large", "nothing"]
    found = measure(said, wanted)
    assert set(found) == {"token_f1", "rouge_l", "bleu"}
    for metric in found.values():
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
    assert measure(said, wanted) == found
    assert measure(["a"], ["a"]) == {"token_f1": {"value": 1.0}}

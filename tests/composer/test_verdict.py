"""The sentence says what the figures say, and no more."""

from typing import Any

import pytest

from composer.engine.evaluate import score
from composer.verdict import verdict


def row(key: str, hits: str, detail: str = "") -> dict[str, Any]:
    said = ["right" if hit == "1" else "wrong" for hit in hits]
    return {
        "key": key,
        **score(said, ["right"] * len(hits)).to_json(),
        "hits": hits,
        "detail": detail,
        "forwards": 0,
    }


def hits(right: int, total: int = 100) -> str:
    return "1" * right + "0" * (total - right)


def evidence(**methods: str) -> dict[str, Any]:
    names = {"best_single": "lab/antonym"}
    return {"methods": [row(key, found, names.get(key, "")) for key, found in methods.items()]}


def test_it_says_use_it_when_the_composition_is_clearly_better() -> None:
    found = verdict(
        evidence(
            composed=hits(84),
            zero_shot=hits(20),
            best_single=hits(53),
            uniform=hits(40),
            fresh_lora=hits(60),
        )
    )
    assert found is not None and found.kind == "use"
    assert found.sentence == ("Use it: 84 of 100 right, against 53 for the best single module.")
    assert found.detail == "A fresh LoRA trained on the same examples gets 60."


def test_it_admits_that_a_fresh_lora_does_as_well() -> None:
    found = verdict(
        evidence(composed=hits(84), zero_shot=hits(20), best_single=hits(53), fresh_lora=hits(86))
    )
    assert found is not None and found.kind == "use"
    assert "does about as well: 86 of 100" in found.detail


def test_it_says_dont_when_a_fresh_lora_is_better() -> None:
    found = verdict(
        evidence(composed=hits(60), zero_shot=hits(20), best_single=hits(53), fresh_lora=hits(86))
    )
    assert found is not None and found.kind == "dont"
    assert found.sentence == (
        "Don't use this: 60 of 100 right, against 86 for a fresh LoRA trained on the same examples."
    )
    found = verdict(
        evidence(composed=hits(80), zero_shot=hits(20), best_single=hits(53), fresh_lora=hits(96))
    )
    assert found is not None and found.kind == "dont"
    assert found.detail == (
        "Where training is no option, it is still the best there is, "
        "against 53 for the best single module."
    )


def test_it_names_the_single_module_that_does_as_well() -> None:
    found = verdict(evidence(composed=hits(97), zero_shot=hits(20), best_single=hits(96)))
    assert found is not None and found.kind == "single"
    assert found.sentence == (
        "Use the single module lab/antonym: it alone does as well "
        "(96 of 100 right, against 97 for the composition)."
    )


def test_it_names_the_single_module_that_does_better() -> None:
    found = verdict(evidence(composed=hits(60), zero_shot=hits(20), best_single=hits(90)))
    assert found is not None and found.kind == "single"
    assert found.sentence == (
        "Use the single module lab/antonym: 90 of 100 right, against 60 for the composition."
    )


def test_it_says_dont_when_the_base_model_does_as_well() -> None:
    found = verdict(evidence(composed=hits(80), zero_shot=hits(80), best_single=hits(70)))
    assert found is not None and found.kind == "dont"
    assert "the base model alone does as well" in found.sentence


def test_it_says_dont_when_everything_fails() -> None:
    found = verdict(evidence(composed=hits(4), zero_shot=hits(0), best_single=hits(2)))
    assert found is not None and found.kind == "dont"
    assert "nothing works here" in found.sentence


@pytest.mark.parametrize(("composed", "single"), [("1110", "1000"), (hits(7, 10), hits(4, 10))])
def test_it_does_not_judge_on_too_few_examples(composed: str, single: str) -> None:
    nothing = "0" * len(composed)
    found = verdict(evidence(composed=composed, zero_shot=nothing, best_single=single))
    assert found is not None and found.kind == "unsure"
    assert found.sentence.startswith("Too few held-out examples to tell")


def test_it_is_unsure_about_a_difference_that_could_matter() -> None:
    composed = "1" * 20 + "10" * 15 + "0" * 10
    single = "1" * 20 + "01" * 15 + "0" * 10
    found = verdict(evidence(composed=composed, zero_shot="0" * 60, best_single=single))
    assert found is not None and found.kind == "unsure"


def test_it_compares_the_same_examples_in_pairs() -> None:
    """Intervals of 60 and 70 of 100 overlap, yet ten wins without a loss are no chance."""
    found = verdict(evidence(composed=hits(70), zero_shot=hits(10), best_single=hits(60)))
    assert found is not None and found.kind == "use"


def test_it_warns_where_most_answers_are_wrong() -> None:
    found = verdict(evidence(composed=hits(30), zero_shot=hits(2), best_single=hits(10)))
    assert found is not None and found.kind == "use"
    assert found.sentence.startswith("Use it with care: 30 of 100")


def test_it_is_honest_without_held_out_examples() -> None:
    facts = {"search": {"loss_before": 2.5, "loss_after": 0.25}, "adapter": {"r": 8}}
    found = verdict(facts)
    assert found is not None and found.kind == "unmeasured"
    assert "from 2.50 to 0.25" in found.detail


def test_it_says_nothing_before_the_composition_is_measured() -> None:
    assert verdict({}) is None
    assert verdict({"search": {"loss_before": 2.5, "loss_after": 0.25}}) is None

"""The sentence says what the figures say, and no more."""

from typing import Any

import pytest

from composer.engine.evaluate import score
from composer.verdict import MANDATORY, against, comparator_of, methods, verdict


def row(key: str, hits: str, **more: Any) -> dict[str, Any]:
    said = ["right" if hit == "1" else "wrong" for hit in hits]
    found = score(said, ["right"] * len(hits)).to_json()
    return {"key": key, **found, "hits": hits, "forwards": 0, "tokens": 12.0, **more}


def hits(right: int, total: int = 100) -> str:
    return "1" * right + "0" * (total - right)


DETAILS: dict[str, dict[str, Any]] = {
    "best_single": {"detail": "lab/antonym"},
    "in_context": {"tokens": 240.0},
}


def evidence(rival: str = "", **found: str) -> dict[str, Any]:
    """Methods by their hits; the rival is the one that the training folds chose."""
    rows = [row(key, each, **DETAILS.get(key, {})) for key, each in found.items()]
    return {"methods": rows, **({"comparator": {"key": rival}} if rival else {})}


def kind_and_sentence(found: dict[str, Any]) -> tuple[str, str]:
    said = verdict(found)
    assert said is not None
    return said.kind, said.sentence


def test_it_says_use_it_when_the_composition_is_clearly_better() -> None:
    found = verdict(
        evidence(
            "best_single",
            composed=hits(84),
            zero_shot=hits(20),
            best_single=hits(53),
            uniform=hits(40),
            fresh_lora=hits(60),
        )
    )
    assert found is not None and found.kind == "use"
    assert (
        found.sentence == "Use it: 84 of 100 right, against 53 of 100 for the best single module."
    )
    assert "A fresh LoRA trained on the same examples: 60 of 100." in found.detail


def test_the_rival_is_the_one_that_the_training_folds_chose() -> None:
    """On the test another way is ahead by chance; it only holds back where it is level."""
    found = evidence(
        "uniform", composed=hits(84), zero_shot=hits(20), best_single=hits(60), uniform=hits(55)
    )
    rival = comparator_of(found)
    assert rival is not None and rival.key == "uniform"
    assert kind_and_sentence(found)[1].endswith(
        "against 55 of 100 for the plain average of the modules."
    )


def test_searches_of_before_are_held_against_the_best_on_the_test() -> None:
    rival = comparator_of(evidence(composed=hits(84), zero_shot=hits(20), fresh_lora=hits(60)))
    assert rival is not None and rival.key == "fresh_lora"


def test_a_simpler_way_that_is_level_on_the_test_holds_use_it_back() -> None:
    found = evidence(
        "fresh_lora",
        composed=hits(84),
        zero_shot=hits(20),
        best_single=hits(84),
        fresh_lora=hits(50),
    )
    assert kind_and_sentence(found) == (
        "single",
        "Use the single module lab/antonym, it alone is as good (84 of 100 right, against 84 for "
        "the composition).",
    )


def test_a_fresh_lora_with_as_many_right_holds_use_it_back_though_it_is_not_the_rival() -> None:
    ways = {"composed": hits(84), "zero_shot": hits(20), "best_single": hits(50)}
    assert kind_and_sentence(evidence("best_single", **ways, fresh_lora=hits(84))) == (
        "train",
        "Training a LoRA on your examples is as good: 84 of 100 right, against 84 for the "
        "composition.",
    )
    # Examples in the prompt cost tokens in every call, so they must be clearly better.
    assert kind_and_sentence(evidence("best_single", **ways, in_context=hits(86)))[0] == "use"
    assert kind_and_sentence(evidence("best_single", **ways, in_context=hits(99)))[0] == (
        "in_context"
    )


def test_nobody_is_told_to_take_or_doubt_what_a_fresh_lora_clearly_beats() -> None:
    better = (
        "train",
        "Training a LoRA on your examples is better: 90 of 100 right, against 24 for the "
        "composition.",
    )
    ways = {"composed": hits(24), "zero_shot": hits(0), "fresh_lora": hits(90)}
    assert kind_and_sentence(evidence("best_single", **ways, best_single=hits(40))) == better
    assert kind_and_sentence(evidence("best_single", **ways, best_single=hits(20))) == better


def test_it_names_the_single_module_that_is_better() -> None:
    found = evidence("best_single", composed=hits(60), zero_shot=hits(20), best_single=hits(90))
    assert kind_and_sentence(found) == (
        "single",
        "Use the single module lab/antonym: 90 of 100 right, against 60 for the composition.",
    )


def test_it_names_the_average_that_is_as_good() -> None:
    found = evidence(
        "uniform_scaled",
        composed=hits(150, 200), zero_shot=hits(20, 200), uniform_scaled=hits(149, 200),
    )  # fmt: skip
    kind, sentence = kind_and_sentence(found)
    assert kind == "average" and "Use the average of the modules at its best scale" in sentence


def test_it_says_that_training_is_as_good_or_better() -> None:
    found = verdict(
        evidence(
            "fresh_lora",
            composed=hits(60),
            zero_shot=hits(20),
            best_single=hits(30),
            fresh_lora=hits(86),
        )
    )
    assert found is not None and found.kind == "train"
    assert found.sentence == (
        "Training a LoRA on your examples is better: 86 of 100 right, against 60 for the "
        "composition."
    )
    assert found.detail == "Where training is no option, this is still the best there is."
    kind, sentence = kind_and_sentence(
        evidence(
            "fresh_lora",
            composed=hits(150, 200),
            zero_shot=hits(20, 200),
            fresh_lora=hits(150, 200),
        )
    )
    assert kind == "train" and "is as good" in sentence


def test_in_context_learning_is_weighed_with_its_tokens() -> None:
    better = evidence("in_context", composed=hits(60), zero_shot=hits(20), in_context=hits(90))
    assert kind_and_sentence(better) == (
        "in_context",
        "In-context learning is better, if you can afford 240 tokens a call: 90 of 100 right, "
        "against 60 for the composition.",
    )
    level = evidence(
        "in_context",
        composed=hits(150, 200),
        zero_shot=hits(20, 200),
        best_single=hits(80, 200),
        in_context=hits(150, 200),
    )
    kind, sentence = kind_and_sentence(level)
    assert kind == "use" and sentence.endswith("and reads 12 tokens a call instead of 240.")


def test_in_several_orders_an_example_can_be_right_in_part() -> None:
    found = evidence("in_context", composed=hits(90), zero_shot=hits(20))
    scores = [1.0] * 30 + [1 / 3] * 40 + [0.0] * 30
    found["methods"].append(
        {"key": "in_context", "correct": 43.333333, "total": 100, "low": 0.36, "high": 0.51,
         "scores": scores, "tokens": 240.0}
    )  # fmt: skip
    gap = against(found)["in_context"]
    assert gap.outcome == "better" and (gap.won, gap.lost) == (60, 0)
    assert "43.3 of 100" in kind_and_sentence(found)[1]


def test_it_says_that_the_library_lacks_a_module() -> None:
    found = verdict(
        evidence(
            "fresh_lora",
            composed=hits(82, 200),
            zero_shot=hits(80, 200),
            best_single=hits(80, 200),
            fresh_lora=hits(150, 200),
        )  # fmt: skip
    )
    assert found is not None and found.kind == "nothing"
    assert "The library lacks a relevant module." in found.sentence
    assert found.detail == "A fresh LoRA trained on the same examples: 150 of 200."


def test_it_says_so_when_everything_fails() -> None:
    kind, sentence = kind_and_sentence(
        evidence("best_single", composed=hits(4), zero_shot=hits(0), best_single=hits(2))
    )
    assert kind == "nothing" and sentence.startswith("Nothing here helps: 4 of 100 right")


@pytest.mark.parametrize(("composed", "single"), [("1110", "1000"), (hits(29, 29), hits(0, 29))])
def test_it_does_not_judge_on_too_few_examples(composed: str, single: str) -> None:
    nothing = "0" * len(composed)
    found = verdict(
        evidence("best_single", composed=composed, zero_shot=nothing, best_single=single)
    )
    assert found is not None and found.kind == "unsure"
    assert found.sentence.startswith("Cannot tell from so few: ")
    assert found.detail.endswith("about 30 would do.")


def test_with_few_examples_the_loss_is_told() -> None:
    found = evidence("best_single", zero_shot=hits(0, 12), best_single=hits(5, 12))
    found["methods"].insert(0, row("composed", hits(8, 12), losses=[0.2] * 12))
    found["methods"][2]["losses"] = [0.9] * 12
    said = verdict(found)
    assert said is not None
    assert said.detail.startswith("By the loss on them it is better (0.20 against 0.90). ")
    found["methods"][2]["losses"] = [0.1, 0.3] * 6
    said = verdict(found)
    assert said is not None and said.detail.startswith("By the loss they are alike")


def test_it_cannot_tell_and_says_how_many_examples_would_do() -> None:
    composed = "1" * 20 + "10" * 15 + "1" * 4 + "0" * 21
    single = "1" * 20 + "01" * 15 + "0" * 25
    found = verdict(
        evidence("best_single", composed=composed, zero_shot=hits(5, 75), best_single=single)
    )
    assert found is not None and found.kind == "unsure"
    assert found.sentence.startswith("Cannot tell: 39 of 75 right, against 35 of 75")
    assert "About 93 test examples would tell" not in found.detail
    assert "test examples would tell." in found.detail
    assert "clearly better than the base model alone" in found.detail


def test_it_compares_the_same_examples_in_pairs() -> None:
    """Intervals of 60 and 75 of 100 overlap, yet fifteen wins without a loss are no chance."""
    found = evidence("best_single", composed=hits(75), zero_shot=hits(10), best_single=hits(60))
    assert kind_and_sentence(found)[0] == "use"


def test_it_warns_where_most_answers_are_wrong() -> None:
    found = evidence("best_single", composed=hits(30), zero_shot=hits(2), best_single=hits(10))
    assert kind_and_sentence(found)[1].startswith("Use it with care: 30 of 100")


def test_it_tells_when_randomised_modules_do_as_well() -> None:
    found = verdict(
        evidence(
            "best_single",
            composed=hits(84),
            zero_shot=hits(20),
            best_single=hits(53),
            control=hits(80),
        )
    )
    assert found is not None and found.kind == "use"
    assert (
        "The same search over randomised modules is not clearly worse (80 of 100)" in found.detail
    )


def test_a_rival_that_differs_from_fold_to_fold_is_told_as_such() -> None:
    found = evidence("chosen", composed=hits(50), zero_shot=hits(20), chosen=hits(80))
    assert kind_and_sentence(found) == (
        "simpler",
        "Don't use this: a simpler way is better (80 of 100 right, against 50 for the "
        "composition).",
    )


def test_what_was_not_measured_makes_it_incomplete() -> None:
    found = verdict(evidence("zero_shot", composed=hits(84), zero_shot=hits(20)))
    assert found is not None and len(found.missing) == len(MANDATORY) - 1
    assert "a fresh LoRA trained on the same examples" in found.missing
    whole = evidence("zero_shot", composed=hits(84), **{key: hits(20) for key in MANDATORY})
    found = verdict(whole)
    assert found is not None and found.missing == ()


def test_it_is_honest_without_held_out_examples() -> None:
    found = verdict({"search": {"loss_before": 2.5, "loss_after": 0.25}, "adapter": {"r": 8}})
    assert found is not None and found.kind == "unmeasured"
    assert found.sentence == "Not measured: this task has no held-out examples."
    assert "from 2.50 to 0.25" in found.detail


def test_there_is_none_before_anything_was_measured() -> None:
    assert verdict({}) is None
    assert methods({}) == [] and against({}) == {} and comparator_of({}) is None


def test_a_rank_that_was_cut_down_is_no_other_way() -> None:
    found = evidence("zero_shot", composed=hits(80), exact=hits(82), zero_shot=hits(20))
    assert kind_and_sentence(found)[0] == "use"


def test_figures_that_it_does_not_know_are_left_alone() -> None:
    found = evidence("zero_shot", composed=hits(80), zero_shot=hits(20))
    found["methods"][0]["something_new"] = 7
    assert kind_and_sentence(found)[0] == "use"


def test_of_simpler_ways_that_are_level_one_that_beats_the_first_is_named() -> None:
    """The composition is no better than the base model, but a module alone is."""
    found = evidence(
        "fresh_lora",
        composed=hits(50, 150),
        zero_shot=hits(50, 150),
        best_single=hits(90, 150),
        fresh_lora="0" * 95 + "1" * 55,
    )
    kind, sentence = kind_and_sentence(found)
    assert kind == "single" and sentence.startswith("Use the single module lab/antonym: 90 of 150")
    worse = evidence(
        "zero_shot", composed=hits(30, 150), zero_shot=hits(50, 150), best_single=hits(90, 150)
    )
    assert kind_and_sentence(worse)[0] == "single"


def test_a_base_model_that_can_do_it_already_lacks_no_module() -> None:
    found = evidence("zero_shot", composed=hits(99), zero_shot=hits(98), best_single=hits(98))
    assert kind_and_sentence(found) == (
        "nothing",
        "Nothing is needed: the base model alone has 98 of 100 right, the composition 99.",
    )


def test_one_test_example_says_too_little() -> None:
    found = evidence("zero_shot", composed="1", zero_shot="0")
    said = verdict(found)
    assert said is not None and said.kind == "unsure"
    assert "With 1 test example right answers say too little; about 30 would do." in said.detail


def test_folds_that_found_other_modules_best_are_told_as_that() -> None:
    found = evidence("best_single", composed=hits(60), zero_shot=hits(20), best_single=hits(90))
    single = found["methods"][2]
    single["detail"] = "lab/antonym; lab/other"
    said = kind_and_sentence(found)[1]
    assert said.startswith("Use a single module (one of lab/antonym and lab/other): 90 of 100")
    single["detail"] = ""
    assert kind_and_sentence(found)[1].startswith("Use a single module: 90 of 100 right")

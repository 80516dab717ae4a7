"""Without held-out examples: each part of the examples is left out once, and all is done again."""

from typing import Any

import pytest

from composer import folds, services
from composer.engine.errors import BadConfig
from composer.engine.examples import Example
from composer.engine.selection import split
from composer.models import FewShotTask, Search
from composer.module_choice import ModuleChoice
from composer.verdict import methods, verdict
from hub_site.accounts.models import User
from tests.composer.test_runner import SHOTS, WAYS, interrupt, work

pytestmark = pytest.mark.django_db(transaction=True)
MORE = [*SHOTS, Example("up", "down"), Example("left", "right")]


@pytest.fixture
def plain_task(task: FewShotTask) -> FewShotTask:
    """Five examples, and nothing held out."""
    task.examples.all().delete()
    for place, example in enumerate(MORE):
        task.examples.create(
            split="shot", position=place, input=example.input, target=example.target
        )
    return task


def submitted(task: FewShotTask, user: User, **fields: Any) -> Any:
    overrides = {"budget": 12, "seed": 3, "population": 6, **fields.pop("overrides", {})}
    return services.submit_job(task=task, user=user, overrides=overrides, test_folds=2, **fields)


def test_every_example_is_answered_by_what_has_not_seen_it(
    plain_task: FewShotTask, alice: User
) -> None:
    search = work(submitted(plain_task, alice, modules=ModuleChoice("ranked", count=2)))
    assert (search.job.state, search.job.error_message) == ("done", "")
    evidence = search.evidence
    assert sorted(evidence["folds"]) == ["1", "2"]
    rows = {row.key: row for row in methods(evidence)}
    assert [key for key in rows if key != "chosen"] == ["composed", *WAYS]
    parts = [sorted(part.tolist()) for part in split(len(MORE), 2, 3)]
    order = [place for part in parts for place in part]
    for key, row in rows.items():
        assert row.total == len(MORE) == len(row.values)
        if key == "chosen":
            continue
        each = [
            next(found for found in evidence["folds"][name]["methods"] if found["key"] == key)
            for name in ("1", "2")
        ]
        assert [fold["total"] for fold in each] == [len(part) for part in parts]
        joined = [loss for fold in each for loss in fold["losses"]]
        assert row.losses == [joined[order.index(place)] for place in range(len(MORE))]
    rounds = set(search.generations.values_list("round", flat=True))
    assert rounds == {"", "1", "1 control", "2", "2 control"}
    # Each fold's ranking has not seen the part that it is measured on.
    assert [len(each) for each in evidence["fold_ingredients"]] == [2, 2]
    assert search.spec["split"] == "2 folds of the examples, seed 3"
    found = verdict(evidence)
    assert found is not None and found.kind == "unsure" and found.missing == ()


@pytest.mark.slow
def test_an_interrupted_measurement_goes_on_with_its_fold(
    plain_task: FewShotTask, alice: User
) -> None:
    every = ModuleChoice("all")
    whole = work(submitted(plain_task, alice, modules=every))
    again = submitted(plain_task, alice, modules=every)
    for looks in (8, 9, 14, 10):
        interrupt(again, looks)
    resumed = work(again)
    assert resumed.job.state == "done" and resumed.matched

    def bare(search: Search) -> list[dict[str, Any]]:
        times = ("seconds", "seconds_to_train")
        return [
            {key: value for key, value in row.items() if key not in times}
            for row in search.evidence["methods"]
        ]

    assert bare(resumed) == bare(whole)
    assert resumed.evidence["answers"] == whole.evidence["answers"]


def test_a_rival_that_differs_between_folds_is_put_together_of_both() -> None:
    def row(key: str, hits: str, losses: list[float]) -> dict[str, Any]:
        return {
            "key": key, "total": len(hits), "correct": hits.count("1"), "hits": hits,
            "losses": losses, "detail": "", "tokens": 5.0, "size": 8, "forwards": 3,
            "seconds": 0.5, "seconds_to_train": 0.25,
        }  # fmt: skip

    of_folds = {
        "1": {
            "methods": [
                row("composed", "10", [1, 2]),
                row("uniform", "11", [3, 4]),
                row("zero_shot", "00", [5, 6]),
            ],
            "answers": {"composed": ["a", "b"]},
            "comparator": {"key": "uniform"},
        },
        "2": {
            "methods": [
                row("composed", "1", [7]),
                row("uniform", "0", [8]),
                row("zero_shot", "1", [9]),
            ],
            "answers": {"composed": ["c"]},
            "comparator": {"key": "zero_shot"},
            "missing": {"fresh_lora": "no room"},
        },
    }  # fmt: skip
    found = folds.together(of_folds, [[2, 0], [1]])
    rows = {row["key"]: row for row in found["methods"]}
    assert rows["composed"]["hits"] == "110" and rows["composed"]["losses"] == [1, 7, 2]
    assert (rows["composed"]["correct"], rows["composed"]["total"]) == (2, 3)
    assert rows["chosen"]["hits"] == "111" and rows["chosen"]["losses"] == [3, 9, 4]
    assert found["comparator"] == {"key": "chosen", "of_folds": ["uniform", "zero_shot"]}
    assert found["answers"]["composed"] == ["a", "c", "b"]
    assert found["missing"] == {"fresh_lora": "no room"}


@pytest.mark.parametrize("count", [1, 11, 5])
def test_folds_that_cannot_be_measured_are_refused(
    plain_task: FewShotTask, alice: User, count: int
) -> None:
    plain_task.examples.filter(position__gte=2).delete()
    with pytest.raises(BadConfig) as refused:
        services.submit_job(task=plain_task, user=alice, test_folds=count)
    assert list(refused.value.fields) == ["test_folds"]


def test_with_held_out_examples_there_are_no_folds(task: FewShotTask, alice: User) -> None:
    with pytest.raises(BadConfig, match="measured on those"):
        services.submit_job(task=task, user=alice, test_folds=2)


def test_the_evidence_of_folds_holds_no_texts_for_others(
    plain_task: FewShotTask, alice: User
) -> None:
    from composer import artifacts

    search = work(submitted(plain_task, alice, modules=ModuleChoice("ranked", count=2)))
    public = artifacts.public_evidence(search, show_examples=False)
    assert not {"folds", "fold_ingredients", "answers", "screening"} & public.keys()
    assert public["methods"] and public["comparator"]

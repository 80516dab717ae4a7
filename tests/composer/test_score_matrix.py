"""What a module did alone on an example is measured once, whoever asks again."""

from typing import Any

import numpy as np
import pytest
from django.db import transaction

from composer import leaks, ranking, runner, score_matrix, services, task_writing
from composer.engine.examples import Example
from composer.models import ExampleScores, FewShotTask, Search, TaskScore
from composer.module_choice import ModuleChoice
from composer.score_matrix import BASE, Scores
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import JobEvent
from hub_site.jobs.worker import GivingWay, Lease
from modules.models import LoraModule
from tests.composer.conftest import HELD_OUT, SHOTS
from tests.composer.test_runner import work

pytestmark = pytest.mark.django_db(transaction=True)
FEW = {"budget": 6}


def ranked(task: FewShotTask, user: User, count: int = 2, **fields: Any) -> Search:
    """With nothing held out, which is much quicker."""
    task.examples.filter(split="held_out").delete()
    choice = ModuleChoice("ranked", count=count)
    return work(services.submit_job(task=task, user=user, modules=choice, overrides=FEW, **fields))


def copied(
    task: FewShotTask, user: User, *, shots: list[Example], held_out: list[Example]
) -> FewShotTask:
    """A task of the user's that is read alike, with examples of its own."""
    return task_writing.create_task(
        user=user, name="Another", base_model=task.base_model, template=task.template,
        shots=shots, held_out=held_out,
    )  # fmt: skip


def test_a_second_ranking_of_the_same_examples_measures_nothing(
    task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    first, second = ranked(task, alice), ranked(task, alice)
    assert (first.evidence["screening"]["known"], first.evidence["screening"]["forwards"]) == (0, 5)
    again = second.evidence["screening"]
    assert (again["known"], again["forwards"]) == (len(lora_modules), 0)
    same = ("modules", "base", "mixed")
    assert [again[key] for key in same] == [first.evidence["screening"][key] for key in same]
    assert ExampleScores.objects.count() == len(SHOTS)
    assert not JobEvent.objects.filter(name="restarted").exists()


def test_only_what_is_new_is_measured(task: FewShotTask, alice: User) -> None:
    ranked(task, alice)
    task.examples.create(split="shot", position=9, input="the new", target="old")
    found = ranked(task, alice).evidence["screening"]
    assert found["examples"] == len(SHOTS) + 1 and found["known"] == 0
    assert ExampleScores.objects.count() == len(SHOTS) + 1


def test_test_examples_never_get_into_the_matrix(task: FewShotTask, alice: User) -> None:
    choice = ModuleChoice("ranked", count=2)
    job = services.submit_job(task=task, user=alice, modules=choice, overrides=FEW)
    search = work(job)
    assert search.evidence["methods"][0]["total"] == len(HELD_OUT)
    own = ("float32", str(alice.pk))
    held_out = {score_matrix.key_of(each, search.spec, *own) for each in HELD_OUT}
    shots = {score_matrix.key_of(each, search.spec, *own) for each in SHOTS}
    assert set(ExampleScores.objects.values_list("key", flat=True)) == shots
    assert not shots & held_out


def test_test_examples_that_modules_were_ranked_by_are_told_where_they_were_chosen_by_hand(
    task: FewShotTask, alice: User, bob: User, lora_modules: list[LoraModule]
) -> None:
    by_hand = ModuleChoice("hand", modules=tuple(lora_modules[:2]))
    ranked(task, alice)
    other = copied(task, alice, shots=HELD_OUT, held_out=SHOTS[:1])
    fields: dict[str, Any] = {"modules": by_hand, "overrides": FEW}
    search = work(services.submit_job(task=other, user=alice, **fields))
    assert search.evidence["leaks"] == {"ranked": [0]}
    (told,) = leaks.warnings(search, {})
    assert told.startswith("Modules were ranked before by 1 of the examples")
    # Nobody learns so of examples that are somebody else's.
    others = copied(task, bob, shots=HELD_OUT, held_out=SHOTS[:1])
    search = Search.objects.get(job=services.submit_job(task=others, user=bob, **fields))
    assert score_matrix.ranked_before(SHOTS[:1], search, "float32") == []


@pytest.mark.slow
def test_folds_of_what_modules_were_ranked_by_are_tested_on_it_as_well(
    task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    ranked(task, alice)
    by_hand = ModuleChoice("hand", modules=tuple(lora_modules[:2]))
    enough = {"budget": 12, "population": 6}
    job = services.submit_job(
        task=task, user=alice, modules=by_hand, overrides=enough, test_folds=3
    )
    assert work(job).evidence["leaks"]["ranked"] == [0, 1, 2]


def test_a_ranking_that_gives_way_goes_on_where_it_was(
    task: FewShotTask, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "RANKED_AT_ONCE", 2)
    choice = ModuleChoice("ranked", count=2)
    job = services.submit_job(task=task, user=alice, modules=choice, overrides=FEW)
    claimed = queue.claim_next("test")
    assert claimed is not None

    class Busy(Lease):
        def give_way(self) -> None:
            raise GivingWay

    first = runner.Composition(claimed, Busy(claimed), Search.objects.get(pk=job.pk))
    first.load_base()
    with pytest.raises(GivingWay):
        ranking.rank(first, first.given)
    assert {len(row.versions) for row in ExampleScores.objects.all()} == {3}  # base and two modules
    queue.release(claimed, "test")
    found = work(job).evidence["screening"]
    assert (found["known"], found["forwards"]) == (2, 2)


def test_two_who_measure_at_once_agree_on_the_first(db: None) -> None:
    def scores(versions: tuple[int, ...], value: float) -> Scores:
        shape = (len(versions), 1)
        return Scores(versions, np.full(shape, value), np.full(shape, True))

    for found in (scores((BASE, 7), 1.0), scores((7, 8), 2.0)):
        with transaction.atomic():
            score_matrix.keep(["k" * 64], found)
    found = score_matrix.read(["k" * 64], [8, 7, BASE, 9])
    assert found.losses[:, 0].tolist()[:3] == [2.0, 1.0, 1.0] and np.isnan(found.losses[3, 0])
    assert found.is_known[:, 0].tolist() == [True, True, True, False]


def test_the_key_tells_apart_what_is_read_otherwise(task: FewShotTask, alice: User) -> None:
    spec = services.submit_job(task=task, user=alice).search.spec
    example = Example("big", "small")
    keys = {
        score_matrix.key_of(example, spec, "float32"),
        score_matrix.key_of(example, spec, "bfloat16"),
        score_matrix.key_of(example, {**spec, "template": "{input}"}, "float32"),
        score_matrix.key_of(example, {**spec, "chat_template": "a" * 64}, "float32"),
        score_matrix.key_of(example, {**spec, "base_model": {"repo": "a/b", "revision": "c"}}, "x"),
        score_matrix.key_of(Example("big", "large"), spec, "float32"),
    }
    assert len(keys) == 6


def test_a_task_shows_which_modules_help_it(
    client: Any, task: FewShotTask, alice: User, bob: User, lora_modules: list[LoraModule]
) -> None:
    search = ranked(task, alice)
    cells = {str(cell.lora_module): cell for cell in TaskScore.objects.filter(task=task)}
    assert set(cells) == {str(module) for module in lora_modules}
    for row in search.evidence["screening"]["modules"]:
        cell = cells[row["name"]]
        assert (cell.loss, cell.exact) == (pytest.approx(row["loss"]), row["exact"])
        assert cell.base_loss == pytest.approx(search.evidence["screening"]["base"]["loss"])
        assert cell.examples == len(SHOTS)
    client.force_login(alice)
    page = client.get(task.get_absolute_url()).content.decode()
    helping = [name for name, cell in cells.items() if cell.gain > 0]
    assert "Modules that help" in page
    assert f"{len(helping)} of {len(cells)} modules take something away" in page or not helping
    assert client.get(lora_modules[0].get_absolute_url()).status_code == 200
    # The examples change, so nothing is known any more.
    task_writing.update_task(
        task, name="New", base_model=task.base_model, shots=SHOTS[:2], template=task.template
    )
    assert not TaskScore.objects.exists()


def test_a_module_shows_the_public_tasks_it_helps_alone(
    client: Any, demo_task: FewShotTask, task: FewShotTask, alice: User
) -> None:
    ranked(demo_task, alice)
    ranked(task, alice)
    helping = TaskScore.objects.helping()
    public = helping.filter(task=demo_task).first()
    private = helping.filter(task=task).first()
    assert public is not None and private is not None
    page = client.get(public.lora_module.get_absolute_url()).content.decode()
    assert "Tasks it helps with" in page and demo_task.get_absolute_url() in page
    assert task.get_absolute_url() not in page
    page = client.get(private.lora_module.get_absolute_url()).content.decode()
    assert task.get_absolute_url() not in page


def test_others_do_not_see_private_modules_in_a_public_tasks_list(
    client: Any, demo_task: FewShotTask, alice: User, bob: User, lora_modules: list[LoraModule]
) -> None:
    ranked(demo_task, alice)
    hidden = lora_modules[0]
    hidden.repo.visibility = "private"
    hidden.repo.save()
    client.force_login(bob)
    TaskScore.objects.update(base_loss=99)  # all of them help
    page = client.get(demo_task.get_absolute_url()).content.decode()
    assert str(lora_modules[1]) in page and str(hidden) not in page


def test_copies_of_a_module_are_folded(
    task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    """The third module's weights are put into the first one's place under its own name."""
    from tests.composer.copies import copy_into

    copy_into(lora_modules[2], lora_modules[0])
    search = ranked(task, alice, count=4)
    folded = search.evidence["screening"]["folded"]
    names = {str(lora_modules[2]), str(lora_modules[0])}
    assert len(folded) == 1
    ((first, others),) = folded.items()
    assert {first, *others} == names
    mixed = [each["repo"] for each in search.spec["ingredients"]]
    assert first in mixed and others[0] not in mixed and len(mixed) == 3


def test_a_demo_task_that_changes_takes_its_scores_back(
    demo_task: FewShotTask, alice: User
) -> None:
    document = {
        "key": "opposites",
        "name": "Opposites of words",
        "shots": [["big", "small"], ["hot", "cold"]],
        "held_out": [],
    }
    ranked(demo_task, alice)
    task_writing.load_demo_tasks([document], base_model=demo_task.base_model)
    assert TaskScore.objects.exists()
    document["template"] = "the opposite of {input} :"
    task_writing.load_demo_tasks([document], base_model=demo_task.base_model)
    assert not TaskScore.objects.exists()


def test_a_ranking_of_another_template_says_nothing_of_the_task(
    task: FewShotTask, alice: User
) -> None:
    """It was changed while its job waited; its examples are as they were."""
    task.examples.filter(split="held_out").delete()
    job = services.submit_job(
        task=task, user=alice, modules=ModuleChoice("ranked", count=2), overrides=FEW
    )
    FewShotTask.objects.update(template="the old {input} :")
    assert work(job).job.state == "done"
    assert not TaskScore.objects.exists()


def test_nobody_learns_from_what_is_known_of_private_examples(
    task: FewShotTask, demo_task: FewShotTask, alice: User, bob: User
) -> None:
    """Bob's task holds what he guesses to stand in Alice's. Of public ones all share the scores."""
    ranked(task, alice)
    guess = task_writing.create_task(
        user=bob, name="Guess", base_model=task.base_model, template=task.template,
        shots=SHOTS[:1],
    )  # fmt: skip
    assert ranked(guess, bob).evidence["screening"]["known"] == 0
    assert ranked(guess, bob).evidence["screening"]["known"] == 4
    ranked(demo_task, alice)
    assert ranked(demo_task, bob).evidence["screening"]["known"] == 4

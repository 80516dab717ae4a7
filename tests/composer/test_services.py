"""Tasks, searches and recipes, through the services that pages and API share."""

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone

from composer import publishing, services, task_writing
from composer.engine.config import preset_with
from composer.engine.errors import BadConfig, BadExamples, CommonsError
from composer.engine.examples import Example
from composer.limits import OverLimit
from composer.models import FewShotTask, Recipe, Search
from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules.models import BaseModel, LoraModule, Repo
from tests.composer.conftest import HELD_OUT, SHOTS


def pairs(task: FewShotTask, split: str) -> list[Example]:
    return task.pairs(split)


# --- tasks -------------------------------------------------------------------------------------


def test_it_keeps_examples_in_their_order_and_splits(task: FewShotTask) -> None:
    assert pairs(task, "shot") == SHOTS
    assert pairs(task, "held_out") == HELD_OUT


def test_it_shows_a_task_to_its_owner_alone(task: FewShotTask, alice: User, bob: User) -> None:
    assert task in FewShotTask.objects.visible_to(alice)
    assert task not in FewShotTask.objects.visible_to(bob)
    assert task not in FewShotTask.objects.visible_to(AnonymousUser())


def test_it_shows_a_demo_task_to_everybody_and_lets_nobody_edit_it(
    demo_task: FewShotTask, alice: User
) -> None:
    assert demo_task in FewShotTask.objects.visible_to(AnonymousUser())
    assert demo_task in FewShotTask.objects.visible_to(alice)
    assert demo_task not in FewShotTask.objects.editable_by(alice)


def test_it_leaves_submitted_searches_as_they_were(task: FewShotTask, alice: User) -> None:
    job = services.submit_job(task=task, user=alice)
    task_writing.update_task(
        task, name="Changed", base_model=task.base_model, shots=[Example("up", "down")]
    )
    assert pairs(task, "shot") == [Example("up", "down")]
    assert job.search.examples["shots"] == [[e.input, e.target] for e in SHOTS]
    assert job.search.title == "Opposites"


def test_it_keeps_jobs_of_a_deleted_task(task: FewShotTask, alice: User) -> None:
    job = services.submit_job(task=task, user=alice)
    task_writing.delete_task(task)
    search = Search.objects.get(pk=job.pk)
    assert search.task is None
    assert search.examples["held_out"] == [[e.input, e.target] for e in HELD_OUT]


def test_it_copies_a_demo_task_for_its_editor(demo_task: FewShotTask, bob: User) -> None:
    copy = task_writing.duplicate_task(demo_task, user=bob)
    assert copy.owner == bob and not copy.is_demo and copy.salt
    assert pairs(copy, "shot") == pairs(demo_task, "shot")


def test_it_loads_demo_tasks_again_without_doubling_them(
    demo_task: FewShotTask, base_model: BaseModel
) -> None:
    document = {
        "key": "opposites",
        "name": "Opposites, better",
        "shots": [["big", "small"]],
        "held_out": [],
    }
    assert task_writing.load_demo_tasks([document], base_model=base_model) == 1
    again = FewShotTask.objects.get(demo_key="opposites")
    assert again.pk == demo_task.pk and again.name == "Opposites, better"
    assert pairs(again, "shot") == [Example("big", "small")]
    assert pairs(again, "held_out") == []


# --- searches ----------------------------------------------------------------------------------


def test_it_freezes_all_that_decides_the_result(
    task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    job = services.submit_job(task=task, user=alice, overrides={"budget": 30, "seed": 7})
    spec = job.search.spec
    assert [each["repo"] for each in spec["ingredients"]] == [str(m) for m in lora_modules]
    assert [each["sha256"] for each in spec["ingredients"]] == [
        module.weights_sha256 for module in lora_modules
    ]
    assert spec["search"]["budget"] == 30 and spec["seed"] == 7
    assert spec["template"] == "opposite of {input} :"
    assert job.state == "queued" and job.kind == "compose" and job.search.task == task


def test_it_hides_private_examples_behind_a_salt(
    task: FewShotTask, demo_task: FewShotTask, alice: User, bob: User
) -> None:
    own = services.submit_job(task=task, user=alice).search.spec["examples_hash"]
    copy = task_writing.duplicate_task(task, user=alice)
    copied = services.submit_job(task=copy, user=alice).search.spec["examples_hash"]
    assert own != copied
    demo = [
        services.submit_job(task=demo_task, user=user).search.spec["examples_hash"]
        for user in (alice, bob)
    ]
    assert demo[0] == demo[1]


def test_it_takes_a_preset_and_what_differs_from_it() -> None:
    paper = preset_with("paper")
    assert (paper.combination, paper.budget, paper.x0) == ("lorahub", 40, 0.0)
    changed = preset_with("recommended", {"combination": "lorahub", "budget": None})
    assert changed.combination == "lorahub" and changed.budget == 200
    exact = preset_with("paper", {"combination": "sum"})
    assert (exact.budget, exact.x0) == (40, 0.1)  # it brings the start that suits it
    with pytest.raises(BadConfig, match="preset"):
        preset_with("best")
    with pytest.raises(BadConfig, match="Unknown setting 'speed'"):
        preset_with("paper", {"speed": 1})
    with pytest.raises(BadConfig, match="budget is 0"):
        preset_with("paper", {"budget": 0})


def test_it_does_not_queue_what_no_worker_could_load(task: FewShotTask, alice: User) -> None:
    BaseModel.objects.update(source="hub", repo=None)
    with pytest.raises(services.NotReady, match="no worker can load it"):
        services.submit_job(task=task, user=alice)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"objective": "options"}, "objective"),
        ({"blocks": "layers:99"}, "blocks"),
        ({"selection": "folds"}, "selection"),
        ({"selection": "validation"}, "selection"),
    ],
)
def test_it_does_not_queue_settings_that_the_task_cannot_meet(
    task: FewShotTask, alice: User, overrides: dict[str, Any], field: str
) -> None:
    task_writing.update_task(task, name="One", base_model=task.base_model, shots=SHOTS[:1])
    with pytest.raises(BadConfig) as caught:
        services.submit_job(task=task, user=alice, overrides=overrides)
    assert caught.value.fields.keys() == {field}
    assert not Job.objects.exists()


def test_it_does_not_queue_folds_that_would_end_before_their_first_step(
    task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    overrides = {"selection": "folds", "folds": 3, "budget": 20}
    with pytest.raises(BadConfig, match="3 searches share 20 evaluations") as caught:
        services.submit_job(task=task, user=alice, overrides=overrides)
    assert caught.value.fields.keys() == {"budget"}
    enough = int(str(caught.value).split("at least ")[1].split(",")[0])
    assert services.submit_job(task=task, user=alice, overrides={**overrides, "budget": enough})


def test_it_queues_blocks_that_the_modules_have(task: FewShotTask, alice: User) -> None:
    for blocks in ("sides", "layers:4"):
        assert services.submit_job(task=task, user=alice, overrides={"blocks": blocks})


def test_it_makes_one_job_for_one_key(task: FewShotTask, alice: User, bob: User) -> None:
    first = services.submit_job(task=task, user=alice, idempotency_key="k")
    again = services.submit_job(task=task, user=alice, idempotency_key="k")
    assert first.pk == again.pk and Job.objects.count() == 1
    with pytest.raises(CommonsError, match="used before for something else"):
        services.submit_job(task=task, user=alice, overrides={"budget": 9}, idempotency_key="k")


def test_no_change_brings_a_deleted_task_back(task: FewShotTask, base_model: BaseModel) -> None:
    FewShotTask.objects.filter(pk=task.pk).delete()
    with pytest.raises(services.NotReady, match="was deleted"):
        task_writing.update_task(task, name="Again", base_model=base_model, shots=SHOTS)
    assert not FewShotTask.objects.exists()


def test_it_limits_guests(task: FewShotTask, guest: User, settings: Any) -> None:
    settings.GUEST_QUEUED_JOBS = 1
    task = task_writing.duplicate_task(task, user=guest)
    with pytest.raises(OverLimit, match="up to 200. Sign up"):
        services.submit_job(task=task, user=guest, overrides={"budget": 201})
    services.submit_job(task=task, user=guest)
    with pytest.raises(OverLimit, match="1 are allowed at once"):
        services.submit_job(task=task, user=guest)
    assert Job.objects.filter(user=guest).count() == 1


def test_it_frees_a_place_when_a_job_is_cancelled(
    task: FewShotTask, alice: User, settings: Any
) -> None:
    settings.USER_QUEUED_JOBS = 1
    job = services.submit_job(task=task, user=alice)
    services.cancel(job.search)
    assert Job.objects.get(pk=job.pk).state == "cancelled"
    assert services.submit_job(task=task, user=alice).state == "queued"


# --- recipes -----------------------------------------------------------------------------------


@pytest.fixture
def found(task: FewShotTask, alice: User, lora_modules: list[LoraModule]) -> Search:
    """A search with a recipe, as a worker leaves it (the worker has tests of its own)."""
    search = services.submit_job(task=task, user=alice).search
    document = {"spec": search.spec, "weights": [0.5] * len(lora_modules)}
    recipe = Recipe.objects.create(
        digest="a" * 64, document=document, title=search.title, base_model=task.base_model
    )
    for place, module in enumerate(lora_modules):
        recipe.ingredients.create(
            position=place,
            lora_module=module,
            name=str(module),
            revision=module.commit.sha,
            weights_sha256=module.weights_sha256,
            weight=0.1,
        )
    search.recipe = recipe
    search.save()
    return search


def test_it_publishes_under_the_authors_name(found: Search, alice: User, bob: User) -> None:
    assert found.recipe not in Recipe.objects.visible_to(bob)
    recipe = publishing.publish(search=found, user=alice, title="Opposites for all")
    assert recipe in Recipe.objects.visible_to(AnonymousUser())
    assert recipe.published_by == alice and recipe.published_search == found
    assert not recipe.shows_examples


def test_it_leaves_a_published_recipe_to_its_first_publisher(
    found: Search, alice: User, bob: User
) -> None:
    publishing.publish(search=found, user=alice, title="First")
    again = publishing.publish(search=found, user=bob, title="Second")
    assert again.title == "First" and again.published_by == alice


def test_it_does_not_publish_a_private_module(
    found: Search, alice: User, lora_modules: list[LoraModule]
) -> None:
    Repo.objects.filter(pk=lora_modules[1].repo_id).update(visibility="private")
    with pytest.raises(publishing.NotAllowed, match=str(lora_modules[1])):
        publishing.publish(search=found, user=alice, title="T")
    assert Recipe.objects.get().published_at is None


def test_it_does_not_publish_for_guests_or_before_the_end(
    found: Search, task: FewShotTask, alice: User, guest: User
) -> None:
    with pytest.raises(publishing.NotAllowed, match="Sign up"):
        publishing.publish(search=found, user=guest, title="T")
    unfinished = services.submit_job(task=task, user=alice).search
    with pytest.raises(services.NotReady):
        publishing.publish(search=unfinished, user=alice, title="T")
    with pytest.raises(services.NotReady):
        services.submit_trial(search=unfinished, user=alice, given="big")


def test_it_lists_a_recipe_once_for_its_owner(found: Search, alice: User) -> None:
    Recipe.objects.update(published_at=timezone.now())
    twin = services.submit_job(task=found.task, user=alice).search
    Search.objects.filter(pk=twin.pk).update(recipe=found.recipe)
    assert Recipe.objects.visible_to(alice).count() == 1


def test_it_refuses_a_trial_that_the_model_cannot_read(found: Search, alice: User) -> None:
    with pytest.raises(BadExamples, match="Type an input"):
        services.submit_trial(search=found, user=alice, given="  ")
    with pytest.raises(BadExamples, match="tokens"):
        services.submit_trial(search=found, user=alice, given="big " * 900)


def test_who_leaves_takes_the_answers_of_all_folds_along(found: Search, alice: User) -> None:
    found.evidence["folds"] = {"1": {"answers": {"composed": ["secret"]}, "measured": True}}
    found.evidence["answers"] = {"composed": ["secret"]}
    found.save()
    publishing.publish(search=found, user=alice, title="T")
    services.forget_searches(alice)
    kept = Search.objects.get(pk=found.pk).evidence
    assert "secret" not in str(kept) and kept["folds"]["1"]["measured"]

"""What could make a score flatter than it is, and is told."""

from typing import Any

import pytest

from composer import leaks, publishing, services, task_writing
from composer.engine.examples import Example
from composer.models import FewShotTask, Search
from composer.module_choice import ModuleChoice
from hub_site.accounts.models import User
from modules.models import LoraModule
from tests.composer import finished
from tests.composer.conftest import HELD_OUT, SHOTS


def test_the_split_is_a_part_of_the_recipe() -> None:
    assert leaks.split_rule(0, 7) == "as given"
    assert leaks.split_rule(5, 7) == "5 folds of the examples, seed 7"


def test_test_examples_that_chose_the_modules_are_told(task: FewShotTask, alice: User) -> None:
    """A remix of a search whose examples are this task's test: other signs do not hide it."""
    earlier = finished.start(task, alice)
    earlier.examples = {**earlier.examples, "shots": [["UP!", "down"], ["new", "old"]]}
    earlier.save()
    job = services.submit_job(task=task, user=alice, remixed=earlier)
    search = Search.objects.get(pk=job.pk)
    assert HELD_OUT[0] == Example("up", "down")
    assert search.evidence == {"leaks": {"reused": [0]}}
    (told,) = leaks.warnings(search, {})
    assert told.startswith("1 of the test examples was among the examples")
    fresh = Search.objects.get(pk=services.submit_job(task=task, user=alice).pk)
    assert fresh.evidence == {} and leaks.warnings(fresh, {}) == []


def test_a_published_recipe_is_looked_through_as_well(
    task: FewShotTask, alice: User, bob: User, lora_modules: list[LoraModule]
) -> None:
    search = finished.finish(finished.start(task, alice))
    recipe = publishing.publish(search=search, user=alice, title="Opposites")
    assert leaks.evidence(recipe, SHOTS, alice) == {"leaks": {"reused": [0, 1, 2]}}
    assert leaks.evidence(recipe, HELD_OUT, alice) == {} == leaks.evidence(None, SHOTS, alice)
    # A stranger would learn whether a guess is right, unless it is no guess any more.
    assert leaks.evidence(recipe, SHOTS, bob) == {}
    search.examples = {**search.examples, "shots": [[f"word {n}", "x"] for n in range(6)]}
    search.save()
    recipe.refresh_from_db()
    many = [Example(f"word {n}", "x") for n in range(6)]
    assert leaks.evidence(recipe, many, bob) == {"leaks": {"reused": [0, 1, 2, 3, 4, 5]}}
    recipe.shows_examples = True
    assert leaks.evidence(recipe, many[:1], bob) == {"leaks": {"reused": [0]}}


@pytest.mark.parametrize(
    ("said", "words", "named"),
    [
        ("bbh/boolean_expressions, glue", ["Boolean expressions", ""], ["bbh/boolean_expressions"]),
        ("Trained on my own notes", ["Opposites of words"], []),
        ("snli and mnli", ["Is it so? MNLI in five examples"], ["mnli"]),
        ("the", ["the opposite"], []),
        ("", ["anything"], []),
    ],
)
def test_training_data_that_the_task_is_named_after(
    said: str, words: list[str], named: list[str]
) -> None:
    assert leaks.named_in(said, words) == named


def test_a_module_that_was_trained_on_the_task_is_told(task: FewShotTask, alice: User) -> None:
    search = finished.start(task, alice)
    search.title = "Navigate, by examples"
    (told,) = leaks.warnings(search, {"lab/one": "bbh/navigate", "lab/two": "other things"})
    assert told.startswith("lab/one says it was trained on bbh/navigate")


def test_it_counts_how_often_a_test_was_opened(task: FewShotTask, alice: User, bob: User) -> None:
    first = finished.finish(finished.start(task, alice))
    assert leaks.times_opened(first, alice) == 1
    finished.start(task, alice)  # it has not measured yet
    assert leaks.times_opened(first, alice) == 1
    second = finished.finish(finished.start(task, alice, seed=1))
    assert leaks.times_opened(second, alice) == 2 and leaks.times_opened(second, bob) == 0
    task.examples.filter(split="held_out", position=2).delete()
    other = finished.finish(finished.start(task, alice, seed=2))
    assert leaks.times_opened(other, alice) == 1


def test_the_page_tells_both(client: Any, task: FewShotTask, alice: User) -> None:
    finished.finish(finished.start(task, alice))
    search = finished.finish(finished.start(task, alice, seed=1))
    search.evidence["leaks"] = {"reused": [0, 1]}
    search.save()
    client.force_login(alice)
    page = client.get(search.get_absolute_url()).content.decode()
    assert "You have measured on these test examples 2 times." in page
    assert "2 of the test examples were among the examples" in page


@pytest.mark.parametrize(
    ("shot", "test", "is_same"),
    [
        ("UP!", "up", True),
        ("ＵＰ", "up", True),
        ("3 + 4", "3 - 4", False),
        ("大きい", "熱い", False),
        ("大きい", "大きい。", False),
        ("большой", "Большой", True),
    ],
)
def test_inputs_that_are_one_but_for_how_they_are_written(
    task: FewShotTask, alice: User, shot: str, test: str, is_same: bool
) -> None:
    earlier = finished.start(task, alice)
    earlier.examples = {**earlier.examples, "shots": [[shot, "x"]]}
    found = leaks.evidence(earlier, [Example(test, "x")], alice)
    assert found == ({"leaks": {"reused": [0]}} if is_same else {})


def test_a_copy_of_the_task_in_another_order_is_the_same_test(
    task: FewShotTask, alice: User, bob: User
) -> None:
    first = finished.finish(finished.start(task, alice))
    copy = task_writing.duplicate_task(task, user=alice)
    task_writing.update_task(
        copy, name="Copy", base_model=task.base_model, template=task.template,
        shots=SHOTS, held_out=HELD_OUT[::-1],
    )  # fmt: skip
    again = finished.finish(finished.start(copy, alice))
    assert leaks.times_opened(again, alice) == 2 == leaks.times_opened(first, alice)


def test_folds_of_examples_that_chose_the_modules_are_told(task: FewShotTask, alice: User) -> None:
    """The earlier ranking has seen every part."""
    earlier = finished.finish(finished.start(task, alice))
    task.examples.filter(split="held_out").delete()
    every = LoraModule.objects.all()

    def submitted(how: str) -> dict[str, Any]:
        choice = ModuleChoice(how, count=2, modules=tuple(every) if how == "hand" else ())
        job = services.submit_job(
            task=task, user=alice, modules=choice, remixed=earlier, test_folds=3
        )
        return Search.objects.get(pk=job.pk).evidence

    assert submitted("hand") == {"leaks": {"reused": [0, 1, 2]}}
    assert submitted("ranked") == {}

"""The forms of tasks and compositions: rows and pastes in, problems at their places."""

from typing import Any
from urllib.parse import urlencode

import pytest
from django.http import QueryDict

from composer.engine.examples import Example
from composer.forms import BLANK_ROWS, ComposeForm, PublishForm, TaskForm, TryForm
from composer.models import FewShotTask
from hub_site.accounts.models import User
from hub_site.jobs.models import Job
from modules.models import BaseModel, LoraModule
from tests.composer import finished


def posted(**fields: Any) -> QueryDict:
    return QueryDict(urlencode(fields, doseq=True))


@pytest.fixture
def typed(base_model: BaseModel) -> dict[str, Any]:
    return {
        "name": "Opposites",
        "base_model": base_model.pk,
        "template": "opposite of {input} :",
        "shots_input": ["big", "", " hot "],
        "shots_target": ["small", "", "cold"],
        "held_out_text": "up\tdown\ngood\tbad",
    }


def test_it_writes_a_task_from_rows_and_pasted_lines(alice: User, typed: dict[str, Any]) -> None:
    form = TaskForm(posted(**typed, shots_text='{"input": "old", "target": "new"}'))
    assert form.is_valid(), form.errors
    task = form.save(alice)
    assert task.owner == alice and task.template == "opposite of {input} :"
    assert task.pairs("shot") == [
        Example("big", "small"),
        Example("hot", "cold"),
        Example("old", "new"),
    ]
    assert task.pairs("held_out") == [Example("up", "down"), Example("good", "bad")]


def test_it_shows_a_task_as_it_can_be_saved_again(task: FewShotTask, alice: User) -> None:
    form = TaskForm(task=task)
    rows = [(row.input, row.target) for row in form.shot_rows if row.input]
    assert rows == [(e.input, e.target) for e in task.pairs("shot")]
    again = posted(
        name="Renamed",
        base_model=task.base_model.pk,
        template=form["template"].value(),
        shots_input=[given for given, _ in rows],
        shots_target=[wanted for _, wanted in rows],
        held_out_text=form["held_out_text"].value(),
    )
    before = [task.pairs("shot"), task.pairs("held_out")]
    saved = TaskForm(again, task=task)
    assert saved.is_valid(), saved.errors
    assert saved.save(alice).pk == task.pk
    assert [task.pairs("shot"), task.pairs("held_out")] == before
    assert FewShotTask.objects.get().name == "Renamed"


def test_it_marks_the_row_and_field_that_is_wrong(typed: dict[str, Any]) -> None:
    typed["shots_target"] = ["small", "", ""]
    form = TaskForm(posted(**typed))
    assert not form.is_valid()
    rows = {row.number: row for row in form.shot_rows}
    assert rows[3].target_error == "The answer is empty."
    assert rows[1].target_error == rows[1].input_error == ""
    assert form.errors["shots_text"] == ["Row 3, answer: The answer is empty."]
    assert form.shots_problems == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shots_input": [], "shots_target": []}, "Give at least one example."),
        ({"shots_text": "no tab here"}, "Line 1: There is no tab."),
        ({"shots_text": "big\tlarge"}, "Line 1, input: This input repeats row 1."),
        ({"held_out_text": "up\tdown\nbig\tsmall"}, "Held-out line 2, input: This input is also"),
        ({"held_out_text": "big " * 600 + "\tx"}, "604 tokens long; the model reads at most 512"),
        ({"answer_options": "small\ncold"}, "Held-out line 1, answer: 'down' is not among"),
        ({"answer_options": "small\nsmall"}, "An answer option is given twice."),
        ({"answer_options": "small"}, "Give two answer options or more, or none."),
        ({"template": "no slot"}, "The template holds {input} 0 times"),
        ({"template": "{input} {input}"}, "The template holds {input} 2 times"),
        ({"shots_text": '{"input": "a\\u0000b", "target": "c"}'}, "characters that are not text"),
        ({"shots_text": '{"input": "\\ud800", "target": "c"}'}, "characters that are not text"),
        ({"base_model": "999"}, "Select a valid choice"),
        ({"name": ""}, "This field is required"),
    ],
)
def test_it_says_what_is_wrong(typed: dict[str, Any], change: dict[str, Any], words: str) -> None:
    form = TaskForm(posted(**(typed | change)))
    assert not form.is_valid()
    said = [message for messages in form.errors.values() for message in messages]
    assert any(words.lower() in message.lower() for message in said), said


def test_it_takes_no_more_than_two_hundred_examples(typed: dict[str, Any]) -> None:
    lines = "\n".join(f"word {n}\tanswer" for n in range(201))
    form = TaskForm(
        posted(**(typed | {"shots_input": [], "shots_target": [], "shots_text": lines}))
    )
    assert not form.is_valid()
    assert form.shots_problems == ["There are 201 examples; give at most 200."]


def test_it_gives_more_rows_and_keeps_what_was_typed(typed: dict[str, Any]) -> None:
    form = TaskForm.with_more_rows(posted(**typed))
    assert not form.is_bound
    assert form["name"].value() == "Opposites"
    assert form["held_out_text"].value() == typed["held_out_text"]
    assert [row.input for row in form.shot_rows] == ["big", "", " hot ", *[""] * BLANK_ROWS]


def test_a_new_form_has_rows_to_write_in(base_model: BaseModel) -> None:
    form = TaskForm()
    assert [row.number for row in form.shot_rows] == list(range(1, BLANK_ROWS + 1))
    assert form["template"].value() == "{input}"


def test_it_submits_with_the_presets_values(task: FewShotTask, alice: User) -> None:
    form = ComposeForm(posted(preset="paper", budget="", seed="5"), task=task, user=alice)
    assert form.is_valid(), form.errors
    job = form.submit()
    spec = Job.objects.get(pk=job.pk).search.spec
    assert spec["combination"] == "lorahub" and spec["seed"] == 5
    assert spec["search"]["budget"] == 40


def test_it_submits_the_modules_chosen_by_hand(
    task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    chosen = [lora_modules[2].pk, lora_modules[0].pk]
    data = posted(preset="recommended", how="hand", modules=chosen, budget="25")
    form = ComposeForm(data, task=task, user=alice)
    assert form.is_valid(), form.errors
    names = [each["repo"] for each in form.submit().search.spec["ingredients"]]
    assert names == [str(lora_modules[0]), str(lora_modules[2])]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"preset": "best"}, "preset"),
        ({"preset": "paper", "how": "hand"}, "modules"),
        ({"preset": "paper", "how": "hand", "modules": ["999"]}, "modules"),
        ({"preset": "paper", "budget": "0"}, "budget"),
        ({"preset": "paper", "sigma": "x"}, "sigma"),
        ({"preset": "paper", "bound": "2", "x0": "3"}, "x0"),
        ({"preset": "paper", "objective": "reference", "reduction": "example"}, "reduction"),
        ({"preset": "paper", "population": "2"}, "population"),
    ],
)
def test_it_names_the_setting_that_is_wrong(
    task: FewShotTask, alice: User, fields: dict[str, Any], field: str
) -> None:
    form = ComposeForm(posted(**fields), task=task, user=alice)
    assert not form.is_valid()
    assert field in form.errors


def test_it_offers_modules_with_reasons(
    task: FewShotTask, alice: User, lora_modules: list[LoraModule]
) -> None:
    LoraModule.objects.filter(pk=lora_modules[0].pk).update(r=9)
    exact = ComposeForm(task=task, user=alice)
    assert [fit.fits for fit in exact.fits] == [True] * 4
    linear = ComposeForm(posted(preset="paper", combination="linear"), task=task, user=alice)
    assert [fit.fits for fit in linear.fits] == [False, True, True, True]


def test_publishing_hides_examples_unless_asked(task: FewShotTask, alice: User) -> None:
    search = finished.start(task, alice)
    form = PublishForm(posted(title="Opposites"), search=search, user=alice)
    assert form.is_valid() and form.cleaned_data["show_examples"] is False


def test_trying_needs_an_input() -> None:
    assert not TryForm(posted(input="")).is_valid()
    assert not TryForm(posted(input="x" * 4001)).is_valid()

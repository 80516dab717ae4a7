from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from composer import publishing, task_writing
from composer.engine.examples import Example
from composer.models import FewShotTask, Recipe
from hub_site.accounts.models import User
from modules.models import BaseModel, LoraModule
from tests.composer import finished

TASKS, NEW, PREVIEW = "/tasks/", "/tasks/new/", "/tasks/preview/"


@pytest.fixture
def typed(base_model: BaseModel) -> dict[str, Any]:
    """A task form as a visitor fills it in."""
    return {
        "name": "Plurals",
        "description": "one and many",
        "base_model": base_model.pk,
        "template": "plural of {input} :",
        "answer_options": "",
        "shots_input": ["cat", "dog", ""],
        "shots_target": ["cats", "dogs", ""],
        "shots_text": "",
        "held_out_text": "cow\tcows",
        "then": "save",
    }


@pytest.fixture
def published(task: FewShotTask, alice: User) -> Recipe:
    search = finished.finish(finished.start(task, alice))
    return publishing.publish(search=search, user=alice, title="Opposites, published")


# --- the list ----------------------------------------------------------------------------------


def test_it_lists_my_tasks_and_nobody_elses(
    client: Client, alice: User, bob: User, task: FewShotTask
) -> None:
    client.force_login(alice)
    assert "Opposites" in client.get(TASKS).text
    client.force_login(bob)
    answer = client.get(TASKS)
    assert task.get_absolute_url() not in answer.text
    assert "No task yet." in answer.text


def test_it_shows_the_demo_tasks_to_a_visitor(client: Client, demo_task: FewShotTask) -> None:
    answer = client.get(TASKS)
    assert answer.status_code == 200
    assert "/try/opposites/" in answer.text


def test_it_lists_my_compositions_with_their_verdict(
    client: Client, alice: User, task: FewShotTask
) -> None:
    finished.finish(finished.start(task, alice))
    client.force_login(alice)
    assert "Cannot tell from so few" in client.get(TASKS).text


def test_the_list_does_not_take_posts(client: Client) -> None:
    assert client.post(TASKS).status_code == 405


def test_it_asks_as_often_for_ten_tasks_as_for_twenty(
    client: Client, alice: User, base_model: BaseModel, django_assert_num_queries: Any
) -> None:
    client.force_login(alice)

    def add(count: int) -> None:
        for _ in range(count):
            task = task_writing.create_task(
                user=alice, name="T", base_model=base_model, shots=[Example("big", "small")]
            )
            if task.name and FewShotTask.objects.count() % 2:
                finished.finish(finished.start(task, alice))

    add(10)
    many = _count_queries(client, TASKS)
    add(10)
    with django_assert_num_queries(many):
        client.get(TASKS)


def _count_queries(client: Client, url: str) -> int:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client.get(url)  # sessions and caches are warm for both
    with CaptureQueriesContext(
        connection,
    ) as seen:
        assert client.get(url).status_code == 200
    return len(seen)


# --- new ---------------------------------------------------------------------------------------


def test_it_makes_a_task_and_asks_for_the_modules(
    client: Client, alice: User, typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    answer = client.post(NEW, typed)
    task = FewShotTask.objects.get(name="Plurals")
    assert answer.status_code == 302
    assert answer.url == reverse("composer:task_compose", args=[task.pk])
    assert task.owner == alice
    assert task.pairs("shot") == [Example("cat", "cats"), Example("dog", "dogs")]
    assert task.pairs("held_out") == [Example("cow", "cows")]


def test_it_composes_at_once_when_asked(
    client: Client, alice: User, lora_modules: list[LoraModule], typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    answer = client.post(NEW, {**typed, "then": "compose"})
    search = FewShotTask.objects.get(name="Plurals").searches.get()
    assert answer.url == search.get_absolute_url()
    assert search.preset == "recommended"
    assert len(search.spec["ingredients"]) == len(lora_modules)


def test_a_visitor_becomes_a_guest_who_owns_the_task(client: Client, typed: dict[str, Any]) -> None:
    client.post(NEW, typed)
    owner = FewShotTask.objects.get(name="Plurals").owner
    assert owner is not None and owner.is_guest
    assert "Sign up to keep this" in client.get(TASKS).text


def test_looking_at_the_form_makes_no_guest(client: Client, base_model: BaseModel) -> None:
    assert client.get(NEW).status_code == 200
    assert not User.objects.filter(is_guest=True).exists()


def test_it_names_row_and_field_of_what_is_wrong_and_keeps_what_was_typed(
    client: Client, alice: User, typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    answer = client.post(NEW, {**typed, "shots_target": ["cats", "", ""]})
    assert answer.status_code == 422
    assert "The answer is empty." in answer.text
    assert 'id="row-2-target"' in answer.text
    for kept in ("Plurals", "one and many", "plural of {input} :", "cow\tcows", "cats", "dog"):
        assert kept in answer.text
    assert not FewShotTask.objects.exists()


def test_it_names_the_line_of_a_bad_paste_and_keeps_the_paste(
    client: Client, alice: User, typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    answer = client.post(NEW, {**typed, "shots_text": "sun\tsuns\nmoon moons"})
    assert answer.status_code == 422
    assert "Line 2: There is no tab." in answer.text
    assert "sun\tsuns\nmoon moons" in answer.text


def test_it_says_which_held_out_line_repeats_an_example(
    client: Client, alice: User, typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    answer = client.post(NEW, {**typed, "held_out_text": "dog\tdogs"})
    assert answer.status_code == 422
    assert "Held-out line 1, input" in answer.text


def test_it_escapes_what_was_typed(client: Client, alice: User, typed: dict[str, Any]) -> None:
    client.force_login(alice)
    evil = "</textarea><script>alert(1)</script>"
    answer = client.post(NEW, {**typed, "name": evil, "shots_input": [evil, "dog"], "template": ""})
    assert evil not in answer.text
    task = FewShotTask.objects.get()
    assert evil not in client.get(task.get_absolute_url()).text


def test_more_rows_come_without_javascript_and_nothing_is_lost(
    client: Client, typed: dict[str, Any]
) -> None:
    before = client.get(NEW).text.count('name="shots_input"')
    answer = client.post(NEW, {**typed, "add_row": "1"})
    assert answer.status_code == 200
    assert answer.text.count('name="shots_input"') > before
    assert "one and many" in answer.text and "cow\tcows" in answer.text
    assert not FewShotTask.objects.exists()


def test_a_module_brings_its_base_model_along(
    client: Client, lora_modules: list[LoraModule]
) -> None:
    module = lora_modules[0]
    answer = client.get(f"{NEW}?module={module.repo}")
    assert f'From <a href="{module.get_absolute_url()}">' in answer.text
    assert client.get(f"{NEW}?module=no-body/nothing").status_code == 200
    assert client.get(f"{NEW}?module=").status_code == 200


def test_a_recipe_brings_its_instruction_and_its_modules_along(
    client: Client, bob: User, published: Recipe, typed: dict[str, Any]
) -> None:
    client.force_login(bob)
    url = f"{NEW}?recipe={published.pk}"
    assert "opposite of {input} :" in client.get(url).text
    client.post(url, {**typed, "then": "compose"})
    names = {each["repo"] for each in bob.tasks.get().searches.get().spec["ingredients"]}
    assert names == {each.name for each in published.ingredients.all()}


# --- preview -----------------------------------------------------------------------------------


def test_the_preview_shows_what_the_model_reads_and_how_long_it_is(
    client: Client, typed: dict[str, Any]
) -> None:
    answer = client.post(PREVIEW, typed)
    assert answer.status_code == 200
    assert "plural of cat :" in answer.text
    assert "tokens" in answer.text
    assert "<html" not in answer.text


def test_the_preview_says_what_is_wrong_with_the_instruction(
    client: Client, typed: dict[str, Any]
) -> None:
    answer = client.post(PREVIEW, {**typed, "template": "no place for it"})
    assert "it must hold it exactly once" in answer.text


@pytest.mark.parametrize("value", ["", "abc", "999999"])
def test_the_preview_bears_a_base_model_that_is_none(
    client: Client, typed: dict[str, Any], value: str
) -> None:
    assert client.post(PREVIEW, {**typed, "base_model": value}).status_code == 200


def test_odd_values_in_address_and_form_are_no_fault_of_ours(
    client: Client, alice: User, typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    for query in ({"recipe": "\0"}, {"module": "a/b\0"}):
        assert client.get(reverse("composer:task_new"), query).status_code == 200
    odd = typed | {"base_model": "9" * 5_000}
    assert client.post(reverse("composer:task_new"), odd).status_code == 422
    assert client.post(reverse("composer:task_preview"), odd).status_code == 200


def test_the_preview_outlives_a_new_session(typed: dict[str, Any]) -> None:
    """Saving makes a visitor a guest, with a new token; a preview may still bring the old one."""
    assert Client(enforce_csrf_checks=True).post(PREVIEW, typed).status_code == 200


def test_the_preview_needs_a_post(client: Client) -> None:
    assert client.get(PREVIEW).status_code == 405


def test_the_preview_works_without_javascript(client: Client, typed: dict[str, Any]) -> None:
    answer = client.post(NEW, {**typed, "preview": "1"})
    assert answer.status_code == 200
    assert "plural of cat :" in answer.text


# --- the task ----------------------------------------------------------------------------------


def test_the_page_shows_examples_and_what_the_model_reads(
    client: Client, alice: User, task: FewShotTask
) -> None:
    client.force_login(alice)
    answer = client.get(task.get_absolute_url())
    assert answer.status_code == 200
    assert "opposite of big :" in answer.text
    assert "Compose from 3 examples" in answer.text


def test_a_private_task_is_not_there_for_a_stranger(
    client: Client, bob: User, task: FewShotTask
) -> None:
    client.force_login(bob)
    for name in ("task", "task_edit", "task_delete", "task_compose"):
        url = reverse(f"composer:{name}", args=[task.pk])
        assert client.get(url).status_code == 404, name
    for name in ("task_edit", "task_delete", "task_compose", "task_duplicate"):
        url = reverse(f"composer:{name}", args=[task.pk])
        assert client.post(url).status_code == 404, name
    assert FewShotTask.objects.count() == 1


def test_whoever_is_not_signed_in_is_asked_to(client: Client, task: FewShotTask) -> None:
    for name in ("task", "task_edit", "task_delete", "task_compose"):
        url = reverse(f"composer:{name}", args=[task.pk])
        answer = client.get(url)
        assert answer.status_code == 302, name
        assert answer.url.startswith("/accounts/login/"), name
    assert client.post(reverse("composer:task_duplicate", args=[task.pk])).status_code == 404
    assert client.post(reverse("composer:task_compose", args=[task.pk])).status_code == 404


def test_a_demo_task_is_everybodys_to_see_and_nobodys_to_change(
    client: Client, bob: User, demo_task: FewShotTask
) -> None:
    assert client.get(demo_task.get_absolute_url()).status_code == 200
    client.force_login(bob)
    assert client.get(reverse("composer:task_edit", args=[demo_task.pk])).status_code == 404
    assert client.post(reverse("composer:task_delete", args=[demo_task.pk])).status_code == 404


def test_it_edits_a_task(
    client: Client, alice: User, task: FewShotTask, typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    url = reverse("composer:task_edit", args=[task.pk])
    assert "opposite of {input} :" in client.get(url).text
    assert client.post(url, typed).url == task.get_absolute_url()
    task.refresh_from_db()
    assert task.name == "Plurals"
    assert task.pairs("shot")[0] == Example("cat", "cats")


def test_a_bad_edit_changes_nothing(
    client: Client, alice: User, task: FewShotTask, typed: dict[str, Any]
) -> None:
    client.force_login(alice)
    url = reverse("composer:task_edit", args=[task.pk])
    assert client.post(url, {**typed, "name": ""}).status_code == 422
    task.refresh_from_db()
    assert task.name == "Opposites"


def test_a_demo_task_can_be_copied_and_changed(
    client: Client, demo_task: FewShotTask, bob: User
) -> None:
    client.force_login(bob)
    answer = client.post(reverse("composer:task_duplicate", args=[demo_task.pk]))
    copy = bob.tasks.get()
    assert answer.url == reverse("composer:task_edit", args=[copy.pk])
    assert copy.pairs("shot") == demo_task.pairs("shot")
    assert client.get(answer.url).status_code == 200


def test_deleting_asks_first(client: Client, alice: User, task: FewShotTask) -> None:
    client.force_login(alice)
    url = reverse("composer:task_delete", args=[task.pk])
    assert "3 examples" in client.get(url).text
    assert FewShotTask.objects.exists()
    assert client.post(url).url == TASKS
    assert not FewShotTask.objects.exists()


def test_duplicate_needs_a_post(client: Client, alice: User, task: FewShotTask) -> None:
    client.force_login(alice)
    assert client.get(reverse("composer:task_duplicate", args=[task.pk])).status_code == 405

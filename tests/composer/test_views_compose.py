from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from composer import module_choice, services
from composer.engine.config import preset_with
from composer.engine.recipe import config_of
from composer.forms import ComposeForm
from composer.models import FewShotTask, Search
from composer.module_choice import ModuleChoice
from composer.views import compose
from hub_site.accounts.models import User
from modules.models import LoraModule
from tests.composer import finished


def compose_url(task: FewShotTask) -> str:
    return reverse("composer:task_compose", args=[task.pk])


def test_the_defaults_compose_all_modules(
    client: Client, alice: User, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    client.force_login(alice)
    page = client.get(compose_url(task))
    assert "Compose from 3 examples" in page.text
    answer = client.post(compose_url(task), {"preset": "recommended"})
    search = Search.objects.get()
    assert answer.url == search.get_absolute_url()
    assert len(search.spec["ingredients"]) == len(lora_modules)


def test_chosen_modules_and_settings_are_used(
    client: Client, alice: User, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    client.force_login(alice)
    chosen = lora_modules[1:3]
    data = {
        "preset": "paper",
        "how": "hand",
        "modules": [module.pk for module in chosen],
        "budget": 33,
        "seed": 7,
    }
    client.post(compose_url(task), data)
    spec = Search.objects.get().spec
    assert [each["repo"] for each in spec["ingredients"]] == [str(one.repo) for one in chosen]
    assert spec["combination"] == "lorahub"
    assert (spec["search"]["budget"], spec["seed"]) == (33, 7)


def test_it_says_how_long_the_last_ones_took_and_what_folds_cost(
    client: Client, task: FewShotTask, alice: User
) -> None:
    finished.finish(finished.start(task, alice))
    client.force_login(alice)
    page = f"/tasks/{task.pk}/compose/"
    assert "The last ones here took about 12 s." in client.get(page).text
    task.examples.filter(split="held_out").delete()
    for place in range(10, 15):
        task.examples.create(split="shot", position=place, input=f"in {place}", target="out")
    assert "One search took about 12 s here, so 6 may take 72 s." in client.get(page).text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"preset": "magic"}, "Select a valid choice"),
        ({"preset": "recommended", "budget": 0}, "greater than or equal to 1"),
        ({"preset": "recommended", "budget": 50_000}, "you can use up to"),
        ({"preset": "recommended", "how": "hand"}, "Choose at least one module."),
        ({"preset": "recommended", "how": "hand", "modules": [10**6]}, "Select a valid choice"),
        ({"preset": "recommended", "x0": 99}, "between -bound and bound"),
    ],
)
def test_it_says_what_is_wrong_and_keeps_what_was_typed(
    client: Client, alice: User, task: FewShotTask, data: dict[str, Any], said: str
) -> None:
    client.force_login(alice)
    answer = client.post(compose_url(task), {"seed": 4711, **data})
    assert answer.status_code == 422
    assert said in answer.text
    assert "4711" in answer.text
    assert not Search.objects.exists()


def test_two_presses_of_the_button_are_one_job(
    client: Client, alice: User, task: FewShotTask
) -> None:
    client.force_login(alice)
    data = {"preset": "recommended", "key": "once"}
    first, second = client.post(compose_url(task), data), client.post(compose_url(task), data)
    assert first.url == second.url
    assert Search.objects.count() == 1


def test_other_settings_on_the_same_page_are_another_job(
    client: Client, alice: User, task: FewShotTask
) -> None:
    client.force_login(alice)
    for budget in (5, 6):
        data = {"preset": "recommended", "key": "once", "budget": budget}
        assert client.post(compose_url(task), data).status_code == 302
    assert Search.objects.count() == 2


def test_odd_values_in_address_and_form_are_no_fault_of_ours(
    client: Client, alice: User, task: FewShotTask
) -> None:
    client.force_login(alice)
    url, preset = compose_url(task), {"preset": "recommended"}
    assert client.get(url, {"recipe": "\0"}).status_code == 404
    assert client.get(url, {"from": "\0"}).status_code == 404
    assert client.post(url, preset | {"modules": "9" * 5_000}).status_code == 422
    assert client.post(url, preset | {"key": "\0"}).status_code == 302


def test_modules_that_do_not_fit_say_why(
    client: Client, alice: User, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    lora_modules[0].status = "rejected"
    lora_modules[0].rejected_reason = "Its weights are not numbers."
    lora_modules[0].save()
    lora_modules[1].not_composable = "It uses DoRA."
    lora_modules[1].save()
    client.force_login(alice)
    page = client.get(compose_url(task))
    assert "2 more cannot be mixed here" in page.text
    assert "Its weights are not numbers." in page.text and "It uses DoRA." in page.text


def test_a_remix_starts_from_the_earlier_settings(
    client: Client, alice: User, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    modules = ModuleChoice("hand", modules=tuple(lora_modules[:2]))
    job = services.submit_job(
        task=task, user=alice, preset="paper", modules=modules, overrides={"budget": 77}
    )
    client.force_login(alice)
    page = client.get(f"{compose_url(task)}?from={job.pk}")
    assert 'value="77"' in page.text
    assert 'value="paper" checked' in page.text
    assert page.text.count('name="modules"') == len(lora_modules)
    assert page.text.count(" checked data-implies") == 2


def test_a_remix_keeps_what_differs_from_what_its_combination_brings(
    client: Client, alice: User, task: FewShotTask
) -> None:
    overrides = {"combination": "linear", "x0": 0.1, "objective": "exact_match"}
    job = services.submit_job(task=task, user=alice, overrides={**overrides, "optimiser": "cobyla"})
    search = Search.objects.get(pk=job.pk)
    start = compose._settings_of(search, alice)
    form = ComposeForm(start, task=task, user=alice)
    assert form.is_valid(), form.errors
    kept = preset_with("recommended", form.overrides)
    assert kept == config_of(search.spec)


def test_a_remix_of_what_was_never_ranked_asks_for_the_ranking_again(
    alice: User, task: FewShotTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_choice, "MIXED_UNASKED", 2)
    unasked = services.submit_job(task=task, user=alice)
    assert compose._settings_of(unasked.search, alice) == {
        "preset": "recommended",
        "test_folds": 0,
    }
    asked = services.submit_job(task=task, user=alice, modules=ModuleChoice("ranked", count=1))
    again = {"preset": "recommended", "test_folds": 0, "how": "ranked", "count": 1}
    assert compose._settings_of(asked.search, alice) == again


def test_nobody_remixes_a_strangers_search(
    client: Client, alice: User, bob: User, task: FewShotTask, demo_task: FewShotTask
) -> None:
    search = finished.start(task, alice)
    client.force_login(bob)
    for value in (str(search.pk), "not-a-uuid"):
        answer = client.get(f"{compose_url(demo_task)}?from={value}")
        assert answer.status_code == 404


def test_the_queue_limit_is_said_in_words(
    client: Client, alice: User, task: FewShotTask, settings: Any
) -> None:
    settings.USER_QUEUED_JOBS = 1
    finished.start(task, alice)
    client.force_login(alice)
    answer = client.post(compose_url(task), {"preset": "recommended"})
    assert answer.status_code == 422
    assert "are allowed at once" in answer.text


# --- the demo ----------------------------------------------------------------------------------


def test_one_click_starts_a_guest_and_a_job(client: Client, demo_task: FewShotTask) -> None:
    answer = client.post("/try/opposites/")
    search = Search.objects.get()
    assert answer.url == search.get_absolute_url()
    assert search.job.user is not None and search.job.user.is_guest
    page = client.get(answer.url)
    assert page.status_code == 200
    assert "Sign up to keep this" in page.text


def test_one_click_of_somebody_signed_in_makes_no_guest(
    client: Client, alice: User, demo_task: FewShotTask
) -> None:
    client.force_login(alice)
    client.post("/try/opposites/")
    assert Search.objects.get().job.user == alice
    assert not User.objects.filter(is_guest=True).exists()


def test_a_guest_cannot_fill_the_queue(
    client: Client, demo_task: FewShotTask, settings: Any
) -> None:
    settings.GUEST_QUEUED_JOBS = 1
    client.post("/try/opposites/")
    answer = client.post("/try/opposites/", follow=True)
    assert Search.objects.count() == 1
    assert "Sign up for more" in answer.text


def test_many_guests_leave_room_for_those_who_signed_up(
    client: Client, alice: User, demo_task: FewShotTask, settings: Any
) -> None:
    settings.GUESTS_QUEUED_JOBS = 2
    for _ in range(3):
        client.logout()
        answer = client.post("/try/opposites/", follow=True)
    assert "the places for guests are taken" in answer.text
    assert Search.objects.count() == 2
    client.force_login(alice)
    client.post("/try/opposites/")
    assert Search.objects.filter(job__user=alice).count() == 1


def test_an_unknown_demo_is_not_there(client: Client, demo_task: FewShotTask) -> None:
    assert client.post("/try/nothing/").status_code == 404
    assert not User.objects.filter(is_guest=True).exists()


def test_a_private_task_is_no_demo(client: Client, task: FewShotTask) -> None:
    assert client.post(f"/try/{task.pk}/").status_code == 404


def test_the_demo_needs_a_post(client: Client, demo_task: FewShotTask) -> None:
    assert client.get("/try/opposites/").status_code == 405

"""A collection as the candidates of a composition: what fits is mixed, the rest is named."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from composer.engine.errors import IncompatibleModules
from composer.models import FewShotTask, Search
from composer.module_choice import ModuleChoice, choose_modules
from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules.community import collections
from modules.models import BaseModel, Collection, LoraModule, Repo


@pytest.fixture
def collection(bob: User, lora_modules: list[LoraModule]) -> Collection:
    """All but the last module; the second is of another base model, the third still checked."""
    made = collections.create(owner=bob.namespace, title="A choice")
    for module in lora_modules[:-1]:
        collections.add(made, module)
    foreign, checked = lora_modules[1:3]
    LoraModule.objects.filter(pk=foreign.pk).update(
        base_model=None, base_model_name="google/flan-t5-large"
    )
    LoraModule.objects.filter(pk=checked.pk).update(status="checking")
    return made


def compose_url(task: FewShotTask) -> str:
    return reverse("composer:task_compose", args=[task.pk])


def test_what_fits_is_mixed_and_the_rest_is_named(
    client: Client,
    alice: User,
    task: FewShotTask,
    lora_modules: list[LoraModule],
    collection: Collection,
) -> None:
    client.force_login(alice)
    page = client.get(compose_url(task) + "?collection=bob/a-choice").content.decode()
    assert f"A choice (1 of {len(lora_modules) - 1} fit)" in page
    assert "would be left out" in page and "google/flan-t5-large" in page
    data = {"preset": "recommended", "how": "collection", "collection": "bob/a-choice"}
    answer = client.post(compose_url(task), data, follow=True)
    used = [each["repo"] for each in Search.objects.get().spec["ingredients"]]
    assert used == [str(lora_modules[0])]
    said = answer.content.decode()
    assert "2 of “A choice” left out." in said and "being checked" in said


def test_the_button_on_its_page_leads_through_a_new_task_to_the_job(
    client: Client,
    alice: User,
    base_model: BaseModel,
    lora_modules: list[LoraModule],
    collection: Collection,
) -> None:
    client.force_login(alice)
    link = "/tasks/new/?collection=bob/a-choice"
    assert link in client.get("/collections/bob/a-choice/").content.decode()
    assert "From the collection" in client.get(link).content.decode()
    task = {
        "name": "x", "base_model": base_model.pk, "template": "{input}", "then": "compose",
        "shots_text": "big\tsmall\nhot\tcold\nold\tnew", "held_out_text": "",
    }  # fmt: skip
    client.post(link, task)
    used = [each["repo"] for each in Search.objects.get().spec["ingredients"]]
    assert used == [str(lora_modules[0])]


@pytest.mark.parametrize("named", ["", "bob/nothing", "bob", "bob/a\0b", "bob/mine"])
def test_it_must_be_a_collection_that_the_visitor_sees(
    client: Client, alice: User, bob: User, task: FewShotTask, named: str
) -> None:
    collections.create(owner=bob.namespace, title="Mine", visibility="private")
    client.force_login(alice)
    data = {"preset": "recommended", "how": "collection", "collection": named}
    answer = client.post(compose_url(task), data)
    assert answer.status_code == 422 and not Search.objects.exists()


def test_private_and_hidden_modules_of_it_are_not_mixed(
    alice: User, bob: User, base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    made = collections.create(owner=bob.namespace, title="C")
    for module in lora_modules:
        collections.add(made, module)
    Repo.objects.filter(pk=lora_modules[0].repo_id).update(visibility="private")
    Repo.objects.filter(pk=lora_modules[1].repo_id).update(hidden_at="2026-01-01T00:00Z")
    choice = ModuleChoice("collection", collection=made)
    chosen = choose_modules(choice, base_model=base_model, user=alice, combination="sum")
    assert chosen == lora_modules[2:]


def test_a_hidden_module_cannot_be_chosen_even_by_its_owner(
    base_model: BaseModel, lora_modules: list[LoraModule], alice: User
) -> None:
    Repo.objects.filter(pk=lora_modules[1].repo_id).update(
        hidden_at="2026-01-01T00:00Z", owner=alice.namespace
    )
    hidden = LoraModule.objects.get(pk=lora_modules[1].pk)
    with pytest.raises(IncompatibleModules, match="A moderator has hidden it"):
        choose_modules(
            ModuleChoice("hand", modules=(hidden,)),
            base_model=base_model, user=alice, combination="sum",
        )  # fmt: skip


def test_a_collection_of_nothing_that_fits_says_why(
    alice: User, base_model: BaseModel, lora_modules: list[LoraModule], collection: Collection
) -> None:
    collection.items.filter(lora_module=lora_modules[0]).delete()
    choice = ModuleChoice("collection", collection=collection)
    with pytest.raises(IncompatibleModules, match="No module of the collection “A choice” can"):
        choose_modules(choice, base_model=base_model, user=alice, combination="sum")


def by_program(client: Client, user: User, task: FewShotTask) -> Callable[[dict[str, Any]], Any]:
    """Asks for jobs on the task over the API, given what modules they mix."""
    token = tokens.create_token(user, name="t", scope="write")[1]

    def post(modules: dict[str, Any]) -> Any:
        return client.post(
            "/api/v1/jobs/",
            {"task": str(task.pk), "modules": modules},
            content_type="application/json",
            headers={"Authorization": f"Bearer {token}"},
        )

    return post


def test_programs_take_a_collection_too(
    client: Client, alice: User, task: FewShotTask, collection: Collection
) -> None:
    post = by_program(client, alice, task)
    answer = post({"how": "collection", "collection": "bob/a-choice"})
    assert answer.status_code == 202, answer.content
    left = answer.json()["left_out"]
    assert len(left) == 2 and all(each["module"] and each["reason"] for each in left)
    assert len(answer.json()["spec"]["ingredients"]) == 1
    for bad in ({"how": "collection"}, {"how": "collection", "collection": "bob/nothing"}):
        answer = post(bad)
        assert answer.status_code == 422 and "collection" in str(answer.json()["fields"])

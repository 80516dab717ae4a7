"""Recipes outlive their modules; what a moderator hid is not handed out inside an adapter."""

from typing import Any

import pytest
from django.test import Client

from composer import model_cache, publishing, services
from composer.models import FewShotTask, Recipe
from hub_site.accounts.models import User
from hub_site.jobs import worker
from modules import services as library
from modules.community import moderation
from modules.models import LoraModule, ModerationEvent, Repo
from modules.repos import ownership
from tests.composer import finished
from tests.composer.conftest import make_user


@pytest.fixture
def moderator(db: None) -> User:
    return make_user("mara", is_staff=True, is_superuser=True)


@pytest.fixture
def recipe(alice: User, task: FewShotTask, lora_modules: list[LoraModule]) -> Recipe:
    search = finished.finish(finished.start(task, alice))
    return publishing.publish(search=search, user=alice, title="Opposites")


def page(client: Client, recipe: Recipe) -> str:
    return client.get(recipe.get_absolute_url()).content.decode()


def first(recipe: Recipe) -> LoraModule:
    module = recipe.ingredients.all()[0].lora_module
    assert module is not None
    return module


def adapters(recipe: Recipe) -> list[str]:
    search = recipe.published_search
    assert search is not None
    return [
        f"{recipe.get_absolute_url()}adapter.zip",
        f"/api/v1/recipes/{recipe.pk}/adapter.zip",
        f"/jobs/{search.pk}/adapter.zip",
        f"/api/v1/jobs/{search.pk}/adapter.zip",
    ]


def test_a_deleted_module_leaves_its_name_and_hash(client: Client, recipe: Recipe) -> None:
    gone = first(recipe)
    name, sha256 = str(gone), gone.weights_sha256
    Repo.objects.get(pk=gone.repo_id).delete()
    shown = page(client, recipe)
    assert name in shown and sha256 in shown and "deleted since" in shown
    assert f'href="/{name}"' not in shown
    assert client.get(adapters(recipe)[0]).status_code == 200


def test_a_module_made_private_keeps_its_place_and_its_new_name_to_itself(
    client: Client, recipe: Recipe
) -> None:
    module = first(recipe)
    name = str(module)
    Repo.objects.filter(pk=module.repo_id).update(visibility="private", name="renamed-in-secret")
    shown = page(client, recipe)
    assert name in shown and "private now" in shown and "renamed-in-secret" not in shown
    assert client.get(adapters(recipe)[0]).status_code == 200


def test_a_recipe_with_a_hidden_module_says_so_and_hands_nothing_out(
    client: Client, alice: User, recipe: Recipe, moderator: User
) -> None:
    module = first(recipe)
    moderation.hide(module.repo, moderator=moderator, reason="Not theirs.")
    client.force_login(alice)
    shown = page(client, recipe)
    assert "Withdrawn." in shown and "hidden by a moderator" in shown and "Not theirs." not in shown
    assert module.weights_sha256 in shown and "adapter.zip" not in shown
    for url in adapters(recipe):
        answer = client.get(url)
        assert answer.status_code == 403 and b"withdrawn" in answer.content, url
    moderation.restore(module.repo, moderator=moderator)
    assert "Withdrawn." not in page(client, recipe)
    assert {client.get(url).status_code for url in adapters(recipe)} == {200}


def test_a_moderator_may_fetch_it_and_may_allow_it(
    client: Client, recipe: Recipe, moderator: User
) -> None:
    moderation.hide(first(recipe).repo, moderator=moderator, reason="Look at it.")
    url = adapters(recipe)[0]
    assert client.get(url).status_code == 403
    client.force_login(moderator)
    assert client.get(url).status_code == 200
    data = {"action": "allow_adapter", "_selected_action": [recipe.pk], "is_sure": "1"}
    client.post("/admin/composer/recipe/", data | {"reason": "One of many."})
    client.logout()
    assert client.get(url).status_code == 200
    assert "can be downloaded nevertheless" in page(client, recipe)
    assert ModerationEvent.objects.filter(action="allow the adapter").count() == 1


def test_a_moderator_withdraws_a_recipe_and_says_why(
    client: Client, recipe: Recipe, moderator: User
) -> None:
    publisher = recipe.published_by
    client.force_login(moderator)
    data = {"action": "withdraw", "_selected_action": [recipe.pk], "is_sure": "1"}
    client.post("/admin/composer/recipe/", data | {"reason": ""})
    recipe.refresh_from_db()
    assert recipe.published_at is not None and publisher is not None
    client.post("/admin/composer/recipe/", data | {"reason": "Its title is rude."})
    recipe.refresh_from_db()
    assert recipe.published_at is None
    event = ModerationEvent.objects.get(action="withdraw recipe")
    assert (event.actor, event.reason) == (moderator, "Its title is rude.")
    assert publisher.notices.filter(text__contains="Its title is rude.").count() == 1


def test_a_withdrawn_adapter_is_not_tried_either(
    alice: User, recipe: Recipe, moderator: User
) -> None:
    search = recipe.published_search
    assert search is not None
    moderation.hide(first(recipe).repo, moderator=moderator, reason="Not theirs.")
    with pytest.raises(publishing.Withdrawn):
        services.submit_trial(search=search, user=alice, given="big")


@pytest.mark.django_db(transaction=True)
def test_a_job_that_waited_does_not_mix_what_was_hidden_meanwhile(
    alice: User, task: FewShotTask, lora_modules: list[LoraModule], moderator: User
) -> None:
    job = services.submit_job(task=task, user=alice, overrides={"budget": 8})
    moderation.hide(lora_modules[1].repo, moderator=moderator, reason="Not theirs.")
    worker.work_until_idle()
    job.refresh_from_db()
    assert job.state == "done", job.error_message
    mixed = [each["repo"] for each in job.search.spec["ingredients"]]
    assert str(lora_modules[1]) not in mixed and len(mixed) == len(lora_modules) - 1
    assert "hidden" in job.search.evidence["screening"]["refused"][str(lora_modules[1])]


def test_a_worker_knows_a_module_by_its_version_whatever_it_is_called_by_now(
    alice: User, task: FewShotTask, lora_modules: list[LoraModule], moderator: User
) -> None:
    search = services.submit_job(task=task, user=alice, overrides={"budget": 8}).search
    repo, old = lora_modules[1].repo, lora_modules[1].repo.name
    model_cache.forget()
    ownership.rename(repo, "renamed")
    stack = model_cache.stack_of(search, worker.Lease(search.job))
    moderation.hide(repo, moderator=moderator, reason="Not theirs.")
    with pytest.raises(model_cache.ModuleGone, match="has hidden"):
        model_cache.stack_of(search, worker.Lease(search.job))  # though it keeps the stack
    moderation.restore(repo, moderator=moderator)
    assert model_cache.stack_of(search, worker.Lease(search.job)) is stack
    # Another one takes the name: that is not the one that was chosen.
    library.create_repo(owner=repo.owner, name=old, kind=Repo.LORA)
    with pytest.raises(model_cache.ModuleGone, match="no longer here"):
        model_cache.stack_of(search, worker.Lease(search.job))


def test_the_modules_page_names_its_recipes_with_signed_weights(
    client: Client, recipe: Recipe
) -> None:
    for ingredient in recipe.ingredients.all():
        if ingredient.lora_module is None:
            continue
        shown: Any = client.get(ingredient.lora_module.get_absolute_url())
        [use] = shown.context["uses"]
        assert use["recipe"] == recipe and use["weight"] == ingredient.weight
        sign = "+" if ingredient.weight > 0 else "−"
        assert f"<strong>{sign}" in shown.content.decode() or not ingredient.weight

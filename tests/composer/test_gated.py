"""A gated module is mixed by whoever has access, and goes to nobody else inside an adapter."""

from typing import Any

import pytest
from django.test import Client

from composer import model_cache, publishing, services
from composer.engine.errors import IncompatibleModules
from composer.errors import NotAllowed
from composer.models import FewShotTask, Search
from composer.module_choice import GATED, ModuleChoice, choose_modules, modules_for
from hub_site.accounts.models import User
from hub_site.jobs import worker
from modules.community import collections
from modules.models import BaseModel, LoraModule, Repo
from modules.repos import gate
from tests.composer import finished
from tests.composer.conftest import make_user


@pytest.fixture
def gated(lora_modules: list[LoraModule]) -> LoraModule:
    gate.set_gate(lora_modules[0].repo, Repo.MANUAL)
    return lora_modules[0]


@pytest.fixture
def search(alice: User, task: FewShotTask, gated: LoraModule) -> Search:
    """alice, who had access, has composed with it."""
    gate.grant(gated.repo, "alice")
    search = finished.finish(finished.start(task, alice))
    assert str(gated) in [each["repo"] for each in search.spec["ingredients"]]
    return search


def take_away(module: LoraModule) -> None:
    gate.decide(module.repo.access_requests.get(), gate.REJECTED)


def adapters(search: Search) -> list[str]:
    return [
        f"/jobs/{search.pk}/adapter.zip",
        f"/api/v1/jobs/{search.pk}/adapter.zip",
        f"/recipes/{search.recipe_id}/adapter.zip",
        f"/api/v1/recipes/{search.recipe_id}/adapter.zip",
    ]


def test_without_access_it_does_not_fit_and_with_access_it_does(
    alice: User, base_model: BaseModel, lora_modules: list[LoraModule], gated: LoraModule
) -> None:
    def reasons(user: User) -> dict[str, str]:
        return {str(fit.lora_module): fit.reason for fit in modules_for(base_model, user)}

    assert reasons(alice)[str(gated)] == GATED
    assert [name for name, why in reasons(alice).items() if why] == [str(gated)]
    gate.ask(gated.repo, alice)
    assert reasons(alice)[str(gated)] == GATED  # to have asked is no access
    gate.grant(gated.repo, "alice")
    assert not any(reasons(alice).values())


def test_a_choice_leaves_it_out_or_says_why_not(
    alice: User, base_model: BaseModel, lora_modules: list[LoraModule], gated: LoraModule
) -> None:
    def choose(choice: ModuleChoice) -> list[LoraModule]:
        return choose_modules(choice, base_model=base_model, user=alice, combination="sum")

    made = collections.create(owner=alice.namespace, title="Two")
    for module in lora_modules[:2]:
        collections.add(made, module)
    assert gated not in choose(ModuleChoice())
    assert gated not in choose(ModuleChoice("random", count=100))
    assert choose(ModuleChoice("collection", collection=made)) == [lora_modules[1]]
    with pytest.raises(IncompatibleModules, match="is gated. Ask its author for access"):
        choose(ModuleChoice("hand", modules=(gated,)))
    gate.grant(gated.repo, "alice")
    assert choose(ModuleChoice("hand", modules=(gated,))) == [gated]


def test_pages_and_programs_say_so(
    client: Client, alice: User, task: FewShotTask, gated: LoraModule
) -> None:
    client.force_login(alice)
    shown = client.get(f"/tasks/{task.pk}/compose/")
    assert GATED in shown.text and f'href="{gated.get_absolute_url()}"' in shown.text
    data = {"preset": "recommended", "how": "hand", "modules": [gated.pk]}
    answer = client.post(f"/tasks/{task.pk}/compose/", data)
    assert answer.status_code == 422 and GATED in answer.text
    body = {"task": str(task.pk), "modules": {"how": "hand", "modules": [str(gated)]}}
    answer = client.post("/api/v1/jobs/", body, content_type="application/json")
    assert answer.status_code == 422 and GATED in answer.json()["message"]
    gate.grant(gated.repo, "alice")
    assert client.post("/api/v1/jobs/", body, content_type="application/json").status_code == 202


def test_a_recipe_with_it_cannot_be_public(client: Client, alice: User, search: Search) -> None:
    with pytest.raises(NotAllowed, match="private, gated or no longer here"):
        publishing.publish(search=search, user=alice, title="Opposites")
    client.force_login(alice)
    answer = client.post(f"/jobs/{search.pk}/publish/", {"title": "Opposites"})
    assert answer.status_code == 422 and "private, gated or no longer here" in answer.text
    api = f"/api/v1/jobs/{search.pk}/publish/"
    answer = client.post(api, {"title": "Opposites"}, content_type="application/json")
    assert answer.status_code == 403
    assert search.recipe is not None and search.recipe.published_at is None


def test_an_adapter_goes_only_to_whom_its_modules_go(
    client: Client, alice: User, search: Search, gated: LoraModule
) -> None:
    client.force_login(alice)
    assert {client.get(url).status_code for url in adapters(search)} == {200}
    take_away(gated)
    for url in adapters(search):
        answer = client.get(url)
        assert answer.status_code == 403 and b"gated" in answer.content, url
    for page in (search.get_absolute_url(), f"/recipes/{search.recipe_id}/"):
        text = client.get(page).text
        assert "held back" in text and "adapter.zip" not in text
    gate.grant(gated.repo, "alice")
    assert {client.get(url).status_code for url in adapters(search)} == {200}
    assert "held back" not in client.get(search.get_absolute_url()).text


def test_without_access_it_is_not_tried_either(
    client: Client, alice: User, search: Search, gated: LoraModule
) -> None:
    take_away(gated)
    with pytest.raises(NotAllowed, match="you have no access"):
        services.submit_trial(search=search, user=alice, given="big")
    client.force_login(alice)
    answer = client.post(f"/jobs/{search.pk}/try/", {"input": "big"})
    assert answer.status_code == 422 and "you have no access" in answer.text


@pytest.mark.django_db(transaction=True)
def test_a_job_that_waited_does_not_mix_what_was_closed_meanwhile(
    alice: User, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    job = services.submit_job(task=task, user=alice, overrides={"budget": 8})
    gate.set_gate(lora_modules[1].repo, Repo.AUTO)
    worker.work_until_idle()
    job.refresh_from_db()
    assert job.state == "done", job.error_message
    closed = str(lora_modules[1])
    assert closed not in [each["repo"] for each in job.search.spec["ingredients"]]
    assert f"{closed} is gated" in job.search.evidence["screening"]["refused"][closed]


def test_a_worker_mixes_what_its_user_has_access_to(
    alice: User, task: FewShotTask, gated: LoraModule
) -> None:
    model_cache.forget()
    gate.grant(gated.repo, "alice")
    search = services.submit_job(task=task, user=alice, overrides={"budget": 8}).search
    stack = model_cache.stack_of(search, worker.Lease(search.job))
    assert str(gated) in stack.names
    take_away(gated)
    with pytest.raises(model_cache.ModuleGone, match="no longer"):
        model_cache.stack_of(search, worker.Lease(search.job))  # though it keeps the stack


def test_what_was_published_before_the_gate_stays_public(
    client: Client, alice: User, task: FewShotTask, lora_modules: list[LoraModule]
) -> None:
    """As when a module is made private later: it was shared when the recipe was made."""
    search = finished.finish(finished.start(task, alice))
    recipe = publishing.publish(search=search, user=alice, title="Opposites")
    gate.set_gate(lora_modules[0].repo, Repo.MANUAL)
    shown: Any = client.get(recipe.get_absolute_url())
    assert "</svg> gated" in shown.text and "held back" not in shown.text
    assert client.get(adapters(search)[2]).status_code == 200
    search.refresh_from_db()
    assert model_cache.stack_of(search, worker.Lease(search.job)) is not None


def test_somebody_elses_access_is_not_ones_own(
    alice: User, bob: User, base_model: BaseModel, gated: LoraModule
) -> None:
    gate.grant(gated.repo, "alice")
    author = make_user("author")
    Repo.objects.filter(pk=gated.repo_id).update(owner=author.namespace)
    fits = {
        user.username: next(
            fit.fits for fit in modules_for(base_model, user) if fit.lora_module == gated
        )
        for user in (alice, bob, author)
    }
    assert fits == {"alice": True, "bob": False, "author": True}

"""A recipe's adapter in a repo on the Hub."""

import json

import pytest
from django.test import Client

from composer import on_hub, publishing
from composer.models import FewShotTask, Recipe, RecipeOnHub, Search
from hub_site.accounts.models import User
from modules.community import moderation
from modules.models import Repo
from modules.on_hub import accounts
from modules.repos import gate
from modules.storage import local
from tests.composer import finished
from tests.other_site import OtherSite, Work

pytestmark = pytest.mark.django_db(transaction=True)
SHOWN = """
info = api.model_info({name!r}, files_metadata=True)
recipe = json.load(open(api.hf_hub_download({name!r}, "recipe.json")))
print(json.dumps({{
    "private": info.private, "recipe": recipe, "data": info.card_data.to_dict(), "sha": info.sha,
    "weights": next(f.lfs.sha256 for f in info.siblings if f.rfilename.endswith(".safetensors")),
}}))
"""


@pytest.fixture
def search(task: FewShotTask, alice: User) -> Search:
    """Its adapter is that of its first ingredient, whole."""
    found = finished.finish(finished.start(task, alice))
    recipe = Recipe.objects.get(pk=found.recipe_id)
    sha256 = recipe.ingredients.first().lora_module.commit.sha256_of("adapter_config.json")
    recipe.adapter_config = json.loads(local.local_path(sha256).read_text())
    recipe.save()
    return found


def there(site: OtherSite, name: str) -> dict:
    return json.loads(site.client(SHOWN.format(name=name)))


def test_it_goes_under_its_finders_account_private_until_it_is_published(
    hub_here: OtherSite, client: Client, search: Search, alice: User, work: Work
) -> None:
    recipe = Recipe.objects.get()
    client.force_login(alice)
    page = recipe.get_absolute_url()
    assert "connect your account" in client.get(page).text
    assert (
        "Connect your Hugging Face account"
        in client.post(f"{page}hub", {"place": "own"}, follow=True).text
    )
    accounts.connect(alice, hub_here.token)
    assert "Put it under your account there" in client.get(page).text
    client.post(f"{page}hub", {"place": "own"})
    assert "It is on its way to the Hub" in client.get(page).text
    assert [job.result["outcome"] for job in work()] == ["done"]
    home = RecipeOnHub.objects.get()
    found = there(hub_here, home.hub_id)
    assert found["private"] and found["sha"] == home.sha
    assert found["weights"] == recipe.adapter_id
    assert found["recipe"]["weights"] == recipe.document["weights"]
    assert found["data"]["library_name"] == "peft"
    assert home.hub_id in client.get(page).text
    publishing.publish(search=search, user=alice, title="Opposites")
    work()
    assert not there(hub_here, home.hub_id)["private"]
    assert home.hub_id in Client().get(page).text  # everybody's to see now
    assert "Put it under" not in Client().get(page).text


def test_what_is_withdrawn_is_not_put_there_and_closed_where_it_is(
    hub_here: OtherSite, client: Client, search: Search, alice: User, work: Work
) -> None:
    recipe = publishing.publish(search=search, user=alice, title="Opposites")
    on_hub.put(recipe, alice, "site")
    work()
    home = RecipeOnHub.objects.get()
    assert not there(hub_here, home.hub_id)["private"]
    module = recipe.ingredients.first().lora_module
    moderation.hide(module.repo, moderator=alice, reason="A test.")
    assert on_hub.retry_due() == 1
    work()
    assert there(hub_here, home.hub_id)["private"]
    client.force_login(alice)
    answer = client.post(f"{recipe.get_absolute_url()}hub", {"place": "site"}, follow=True)
    assert "withdrawn" in answer.text


def test_an_adapter_with_what_was_gated_since_is_not_put_there(
    hub_here: OtherSite, client: Client, search: Search, alice: User, work: Work
) -> None:
    recipe = Recipe.objects.get(pk=search.recipe_id)
    module = recipe.ingredients.first().lora_module
    accounts.connect(alice, hub_here.token)
    on_hub.put(recipe, alice, "own")
    gate.set_gate(module.repo, Repo.MANUAL)
    assert "held_back" in [job.result.get("outcome") for job in work()]
    home = RecipeOnHub.objects.get()
    assert (home.state, home.hub_id) == ("trouble", "") and f"{module}, which is" in home.reason
    client.force_login(alice)
    answer = client.post(f"{recipe.get_absolute_url()}hub", {"place": "own"}, follow=True)
    assert "you have no access" in answer.text
    gate.grant(module.repo, "alice")
    on_hub.put(recipe, alice, "own")
    work()
    assert there(hub_here, RecipeOnHub.objects.get().hub_id)["private"]


def test_strangers_find_no_button(client: Client, search: Search, alice: User) -> None:
    page = Recipe.objects.get(pk=search.recipe_id).get_absolute_url()
    assert client.post(f"{page}hub", {"place": "own"}).status_code == 404
    publishing.publish(search=search, user=alice, title="Opposites")
    assert "/accounts/login/" in client.post(f"{page}hub", {"place": "own"}).headers["Location"]
    assert client.get(f"{page}hub").status_code == 405

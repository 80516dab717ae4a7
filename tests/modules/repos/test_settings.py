"""What an owner changes: the card, who sees the module, its name, whether it is there at all."""

from typing import Any

import pytest
import yaml
from django.test import Client

from composer.models import Ingredient, Recipe
from hub_site.accounts.models import User
from modules import cards, services
from modules.models import Blob, Commit, LoraModule, OldAddress, Ref, Repo
from modules.repos import ownership
from modules.storage import local
from tests.modules.conftest import CARD

SETTINGS = "/alice/opposites/settings"


@pytest.fixture
def owner(client: Client, alice: User, opposites: LoraModule) -> Client:
    client.force_login(alice)
    return client


def card_of(module: LoraModule) -> str:
    return ownership.card_text(module.repo.head())


def typed(module: LoraModule, **changes: Any) -> dict[str, Any]:
    """What the form holds, as a browser sends it."""
    usual = {
        "parent": module.commit.sha,
        "description": "",
        "tags": "words, opposites",
        "task": "",
        "licence": "apache-2.0",
        "language": "en",
        "body": cards.split(card_of(module))[1].replace("\n", "\r\n"),
    }
    return usual | changes


def test_saving_without_a_change_writes_nothing(owner: Client, opposites: LoraModule) -> None:
    owner.post(SETTINGS, typed(opposites))
    assert opposites.repo.commits.count() == 1
    assert card_of(opposites) == CARD


def test_an_edit_is_a_new_version_of_the_card(owner: Client, opposites: LoraModule) -> None:
    answer = owner.post(
        SETTINGS, typed(opposites, licence="cc0-1.0", tags="antonym", task="antonyms",
                        description="In one line.")
    )  # fmt: skip
    assert answer["Location"] == SETTINGS
    opposites.refresh_from_db()
    assert (opposites.licence, opposites.task) == ("cc0-1.0", "antonyms")
    assert opposites.summary == "In one line."
    assert [tag.name for tag in opposites.tags.all()] == ["antonym"]
    assert opposites.status == LoraModule.READY  # the weights are the same
    head, body = cards.split(card_of(opposites))
    assert body == cards.split(CARD)[1]
    assert yaml.safe_load(head or "") == {
        "license": "cc0-1.0", "language": "en", "tags": ["antonym"], "summary": "In one line.",
        "task": "antonyms",
    }  # fmt: skip


def test_an_edit_of_an_older_card_is_refused_with_what_was_typed(
    owner: Client, opposites: LoraModule, alice: User
) -> None:
    sent = typed(opposites, body="My words.\n")
    ownership.edit_card(user=alice, repo=opposites.repo, changes={"x": 1}, body=None, parent=None)
    answer = owner.post(SETTINGS, sent)
    assert answer.status_code == 412
    page = answer.content.decode()
    assert "was changed while you worked" in page and "My words." in page


def test_a_bad_tag_gives_the_form_again(owner: Client, opposites: LoraModule) -> None:
    answer = owner.post(SETTINGS, typed(opposites, tags="<b>", body="My words."))
    assert answer.status_code == 422
    assert "cannot be a tag" in answer.content.decode() and "My words." in answer.content.decode()


def test_it_hides_and_shows(owner: Client, opposites: LoraModule, bob: User) -> None:
    stranger = Client()
    stranger.force_login(bob)
    for visibility, status in (("private", 404), ("public", 200)):
        owner.post(SETTINGS + "/visibility", {"visibility": visibility})
        assert stranger.get("/alice/opposites").status_code == status
        opposites.refresh_from_db()
        assert opposites.is_listed == (status == 200)
    assert owner.post(SETTINGS + "/visibility", {"visibility": "link"}).status_code == 422


# --- rename ---


def test_old_links_lead_to_the_new_name(
    owner: Client, opposites: LoraModule, client: Client
) -> None:
    sha = opposites.commit.sha
    answer = owner.post(SETTINGS + "/rename", {"name": "Antonyms"})
    assert answer["Location"] == "/alice/Antonyms/settings"
    stranger = Client()
    page = stranger.get("/alice/opposites?revision=" + sha)
    assert (page.status_code, page["Location"]) == (301, f"/alice/Antonyms?revision={sha}")
    for rest in (f"resolve/{sha}/README.md", "download.zip"):
        moved = stranger.get(f"/alice/opposites/{rest}")
        assert (moved.status_code, moved["Location"]) == (308, f"/alice/Antonyms/{rest}")
        assert stranger.get(moved["Location"]).status_code == 200
    api = stranger.get("/api/v1/modules/alice/opposites/")
    assert (api.status_code, api["Location"]) == (308, "/api/v1/modules/alice/Antonyms/")
    found = [row["name"] for row in stranger.get("/api/v1/modules/?q=antonyms").json()["results"]]
    assert found == ["alice/Antonyms"]


def test_a_new_module_takes_an_old_name_over(owner: Client, alice: User, publish: Any) -> None:
    owner.post(SETTINGS + "/rename", {"name": "antonyms"})
    new = publish(alice, "Opposites", seed=4)
    assert Client().get("/alice/opposites").context["module"] == new
    new.repo.delete()
    assert Client().get("/alice/opposites").status_code == 404


def test_back_to_the_first_name_and_new_capitals(owner: Client, opposites: LoraModule) -> None:
    repo = ownership.rename(opposites.repo, "two")
    repo = ownership.rename(repo, "OPPOSITES")
    repo = ownership.rename(repo, "opposites")
    assert [old.name for old in OldAddress.objects.all()] == ["two"]
    assert Client().get("/alice/two")["Location"] == "/alice/opposites"


def test_a_private_modules_old_name_tells_strangers_nothing(
    secret: LoraModule, client: Client, alice: User, bob: User
) -> None:
    ownership.rename(secret.repo, "hidden")
    client.force_login(bob)
    assert client.get("/alice/secret").status_code == 404
    assert client.get("/alice/secret/download.zip").status_code == 404
    client.force_login(alice)
    assert client.get("/alice/secret")["Location"] == "/alice/hidden"


@pytest.mark.parametrize("name", ["a b", "", "taken", "TAKEN", "resolve"])
def test_a_name_that_cannot_be_is_told(
    owner: Client, opposites: LoraModule, alice: User, name: str
) -> None:
    services.create_repo(owner=alice.namespace, name="taken", kind=Repo.LORA)
    answer = owner.post(SETTINGS + "/rename", {"name": name})
    assert answer.status_code == 422 and "aria-invalid" in answer.content.decode()
    opposites.repo.refresh_from_db()
    assert opposites.repo.name == "opposites" and not OldAddress.objects.exists()


# --- delete ---


def test_a_deleted_module_is_gone_and_its_recipes_say_what_it_was(
    owner: Client, opposites: LoraModule, alice: User
) -> None:
    recipe = Recipe.objects.create(
        digest="a" * 64, document={}, title="Mix", base_model=opposites.base_model
    )
    sha, sha256 = opposites.commit.sha, opposites.weights_sha256
    Ingredient.objects.create(
        recipe=recipe, position=0, lora_module=opposites, name="alice/opposites", revision=sha,
        weights_sha256=sha256, weight=0.5,
    )  # fmt: skip
    ownership.rename(opposites.repo, "antonyms")
    answer = owner.post("/alice/antonyms/settings/delete", {"confirm": "antonyms"})
    assert answer["Location"] == "/alice"
    for model in (LoraModule, OldAddress, Ref):
        assert not model.objects.filter(**({"repo__name": "antonyms"})).exists()
    assert not Commit.objects.filter(sha=sha).exists()
    for address in ("/alice/antonyms", "/alice/opposites", f"/alice/antonyms/resolve/{sha}/x"):
        assert owner.get(address).status_code == 404
    kept = Ingredient.objects.get()
    assert kept.lora_module is None
    assert (kept.name, kept.revision, kept.weights_sha256) == ("alice/opposites", sha, sha256)
    assert Blob.objects.filter(pk=sha256).exists() and local.local_path(sha256).exists()


def test_it_deletes_nothing_until_the_name_is_typed(owner: Client, opposites: LoraModule) -> None:
    for text in ("", "opposite", "Opposites"):
        answer = owner.post(SETTINGS + "/delete", {"confirm": text})
        assert answer.status_code == 422
    assert Repo.objects.filter(name="opposites").exists()


def test_the_page_says_what_deleting_means(owner: Client) -> None:
    page = owner.get(SETTINGS).content.decode()
    assert "1 version" in page and "No published recipe uses it" in page


# --- who may ---


@pytest.mark.parametrize("part", ["", "/visibility", "/rename", "/delete"])
def test_the_settings_are_the_owners_alone(
    opposites: LoraModule, client: Client, bob: User, part: str
) -> None:
    sent = {"visibility": "private", "name": "mine", "confirm": "opposites"}
    answer = client.post(SETTINGS + part, sent)
    assert answer["Location"].startswith(f"/accounts/login/?next={SETTINGS}")
    client.force_login(bob)
    assert client.post(SETTINGS + part, sent).status_code == 404
    assert client.get(SETTINGS).status_code == 404
    opposites.repo.refresh_from_db()
    assert (opposites.repo.name, opposites.repo.visibility) == ("opposites", "public")


def test_a_base_models_files_have_no_settings_page(
    client: Client, base_model: Any, alice: User
) -> None:
    client.force_login(alice)
    assert client.get("/lora-commons/tiny-t5/settings").status_code == 404


@pytest.mark.parametrize("tags", ["5", "base_model:a/b", "[*k, base_model:a/b]", "{a: b}"])
def test_odd_front_matter_can_be_edited_all_the_same(
    client: Client, alice: User, base_model: Any, publish: Any, tags: str
) -> None:
    """Lists of lists of lists, which as text would fill any memory."""
    bomb = "".join(
        f"{each}: &{each} [{', '.join(['*' + chr(ord(each) - 1)] * 9)}]\n" for each in "bcdefghijk"
    ).replace("*a", "x")
    card = f"---\n{bomb}summary: *k\ntags: {tags}\n---\nWords.\n"
    module = publish(alice, "odd", card=card)
    client.force_login(alice)
    assert client.get("/alice/odd/settings").status_code == 200
    answer = client.post("/alice/odd/settings", typed(module, tags="mine"))
    assert answer.status_code == 302
    tag = ["base_model:a/b"] if "base_model" in tags else []
    assert cards.front_matter(card_of(module))["tags"] == ["mine", *tag]

"""Tags: pages, suggestions, and what moderators tidy."""

import io
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from hub_site.accounts.models import User
from modules import services
from modules.checks import checking
from modules.finding import facets, tags
from modules.models import LoraModule, ModerationEvent, Tag, TagAlias
from modules.repos import ownership
from tests.modules.conftest import CARD, Publisher, make_user
from tests.modules.finding.test_views import rows

LIST = "/modules/"


def card(*names: str) -> str:
    return CARD.replace("[words, opposites]", f"[{', '.join(names)}]")


@pytest.fixture
def animals(alice: User, base_model: Any, publish: Publisher) -> list[LoraModule]:
    return [
        publish(alice, "cat", seed=1, card=card("animals", "Pets")),
        publish(alice, "dog", seed=2, card=card("animals", "Pets", "loud")),
        publish(alice, "cow", seed=3, card=card("animals", "farm/yard")),
    ]


def uses() -> dict[str, int]:
    return dict(Tag.objects.values_list("name", "uses"))


def hide(module: LoraModule) -> None:
    module.repo.hidden_at = timezone.now()
    module.repo.save()
    checking.update_listed(module)


def test_the_list_of_tags_has_the_most_used_first(client: Client, animals: Any) -> None:
    page = client.get("/tags/").content.decode()
    places = [page.index(f">{name} <") for name in ("animals", "Pets", "farm/yard", "loud")]
    assert places == sorted(places)
    assert uses() == {"animals": 3, "Pets": 2, "farm/yard": 1, "loud": 1}
    found = client.get("/tags/", {"q": "PE"}, headers={"HX-Target": "tags"}).content.decode()
    assert ">Pets <" in found and "animals" not in found and "<html" not in found
    assert "No tag begins" in client.get("/tags/", {"q": "zzz"}).content.decode()


def test_a_tags_page_shows_what_carries_it_and_what_is_beside_it(
    client: Client, animals: Any
) -> None:
    answer = client.get("/tags/Pets/", {"sort": "name"})
    assert rows(answer) == ["cat", "dog"]
    assert answer.context["related"] == [("animals", 2), ("loud", 1)]
    assert rows(client.get("/tags/farm/yard/")) == ["cow"]
    assert client.get("/tags/pets/")["Location"] == "/tags/Pets/"
    assert client.get("/tags/none/").status_code == 404
    assert client.get("/tags/%00/").status_code == 404
    assert client.get("/tags/Pets/", {"sort": "sideways"}).status_code == 200


def test_tags_are_suggested_while_one_types(client: Client, animals: Any) -> None:
    options = client.get("/tags/suggest", {"q": "loud, an"}).content.decode()
    assert client.get("/tags/suggest", {"tags": "loud, an"}).content.decode() == options
    assert '<option value="loud, animals">' in options
    assert "animals" not in client.get("/tags/suggest", {"q": "animals, a"}).content.decode()
    for text in ("", "a\0b", "x" * 5000, "%", "'\""):
        assert client.get("/tags/suggest", {"q": text}).status_code == 200
    found = client.get("/api/v1/tags/", {"q": "pe"}).json()
    assert found == [{"name": "Pets", "uses": 2}]


def test_a_tag_that_no_listed_module_carries_is_shown_nowhere(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    publish(alice, "own", seed=1, private=True, card=card("confidential"))
    hidden = publish(alice, "spam", seed=2, card=card("casino"))
    gone = publish(alice, "gone", seed=3, card=card("short-lived"))
    hide(hidden)
    ownership.delete(gone.repo)
    assert not any(uses().values())
    for name in ("confidential", "casino", "short-lived"):
        assert name not in client.get("/tags/").content.decode()
        assert name not in client.get("/tags/suggest", {"q": name[:4]}).content.decode()
        assert client.get("/api/v1/tags/", {"q": name[:4]}).json() == []
        for spelling in (name, name.upper()):
            assert client.get(f"/tags/{spelling}/").status_code == 404
    client.force_login(alice)
    assert rows(client.get("/tags/confidential/")) == ["own"]


def test_a_merged_tag_is_found_by_the_new_name(
    client: Client, animals: Any, alice: User, publish: Publisher
) -> None:
    boss = make_user("boss")
    pets, loud = Tag.objects.get(name="Pets"), Tag.objects.get(name="loud")
    tags.merge(pets, loud, actor=boss, reason="the same thing")
    assert uses() == {"animals": 3, "loud": 2, "farm/yard": 1}
    assert sorted(rows(client.get(LIST, {"tag": "loud"}))) == ["cat", "dog"]
    assert sorted(rows(client.get(LIST, {"q": "loud"}))) == ["cat", "dog"]
    assert rows(client.get(LIST, {"q": "pets"})) == []
    assert sorted(rows(client.get(LIST, {"q": "cat animals opposite"}))) == ["cat"]
    assert client.get("/tags/Pets/")["Location"] == "/tags/loud/"
    event = ModerationEvent.objects.get()
    assert (event.actor, event.subject) == (boss, "Pets into loud")
    # A card that still says the old name means the new tag.
    again = publish(alice, "hamster", seed=4, card=card("PETS"))
    assert again.tag_names == ["loud"] and uses()["loud"] == 3
    with pytest.raises(tags.BadTag):
        tags.merge(loud, loud, actor=boss)


def test_a_renamed_tag_keeps_its_modules_and_its_old_name(client: Client, animals: Any) -> None:
    pets = tags.rename(Tag.objects.get(name="Pets"), "house animals", actor=None)
    assert pets.uses == 2 and rows(client.get("/tags/house animals/", {"sort": "name"})) == [
        "cat",
        "dog",
    ]
    assert sorted(rows(client.get(LIST, {"q": "house"}))) == ["cat", "dog"]
    assert tags.find("pets") == pets
    # A name that is taken merges the two, and the first old name still leads there.
    loud = tags.rename(pets, "LOUD", actor=None)
    assert loud.name == "loud" and tags.find("pets") == loud == tags.find("house animals")
    # Back to its old name: an alias must not stand in the way.
    assert tags.rename(loud, "Pets", actor=None).name == "Pets"
    assert not TagAlias.objects.named(["pets"]).exists()
    for name in ("", "<b>", "-x", "y" * 61):
        with pytest.raises(tags.BadTag):
            tags.rename(Tag.objects.get(name="Pets"), name, actor=None)


def test_a_new_version_brings_its_own_tags(animals: Any, alice: User) -> None:
    services.commit(
        repo=animals[0].repo, author=alice, title="Other tags",
        additions={"README.md": io.BytesIO(card("feline").encode())},
    )  # fmt: skip
    assert uses() == {"animals": 2, "Pets": 1, "loud": 1, "farm/yard": 1, "feline": 1}


def test_the_schedule_counts_the_same(animals: Any) -> None:
    before = uses()
    Tag.objects.update(uses=77)
    assert facets.recount() == 3
    assert uses() == before


def test_a_moderator_merges_and_renames_in_the_admin(client: Client, animals: Any) -> None:
    boss = User.objects.create_superuser("boss", password="correct horse")
    client.force_login(boss)
    pets, loud = Tag.objects.get(name="Pets"), Tag.objects.get(name="loud")
    address = "/admin/modules/tag/"
    chosen = {"action": "merge", "_selected_action": [pets.pk, loud.pk]}
    assert "The tag that stays" in client.post(address, chosen).content.decode()
    wrong = client.post(address, chosen | {"is_sure": "1", "into": "nothing"})
    assert "There is no tag of this name" in wrong.content.decode()
    client.post(address, chosen | {"is_sure": "1", "into": "LOUD", "reason": "same"})
    assert "Pets" not in uses() and uses()["loud"] == 2
    page = f"{address}{loud.pk}/change/"
    assert "cannot be a tag" in client.post(page, {"name": "<b>"}).content.decode()
    assert client.post(page, {"name": "noisy"}).status_code == 302
    assert "noisy" in uses() and tags.find("pets").name == "noisy"  # type: ignore[union-attr]
    assert ModerationEvent.objects.filter(actor=boss).count() == 2
    assert client.get(f"{address}add/").status_code == 403
    client.force_login(make_user("nobody-special"))
    assert client.post(address, chosen).status_code == 302  # to the admin's sign-in


def test_the_admin_tells_no_tag_of_private_modules(
    client: Client, alice: User, animals: Any, publish: Publisher
) -> None:
    publish(alice, "diary", seed=9, private=True, card=card("acme-layoffs", "animals"))
    tags.merge(Tag.objects.get(name="loud"), Tag.objects.get(name="acme-layoffs"), actor=None)
    publish(alice, "notes", seed=8, private=True, card=card("acme-merger"))
    client.force_login(User.objects.create_superuser("boss", password="correct horse"))
    address = "/admin/modules/tag/"
    page = client.get(address).content.decode()
    assert "animals" in page and "acme-merger" not in page
    unseen = Tag.objects.get(name="acme-merger")
    assert client.get(f"{address}{unseen.pk}/change/").status_code == 302
    chosen = {"action": "merge", "_selected_action": [Tag.objects.get(name="Pets").pk]}
    answer = client.post(address, chosen | {"is_sure": "1", "into": "ACME-merger"})
    assert "There is no tag of this name" in answer.content.decode()
    tags.rename(unseen, "acme-quiet", actor=None)
    aliases = client.get("/admin/modules/tagalias/").content.decode()
    assert "loud" in aliases and "acme-merger" not in aliases


@pytest.mark.parametrize("address", ["/tags/", "/tags/words/", "/tags/suggest"])
def test_tags_only_answer_questions(client: Client, opposites: LoraModule, address: str) -> None:
    assert client.get(address).status_code == 200
    assert client.post(address).status_code == 405

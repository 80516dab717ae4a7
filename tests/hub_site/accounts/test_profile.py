"""A profile: what somebody shares, and to themselves the way to share more. And the settings."""

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from hub_site.accounts.models import Namespace, User
from modules.models import Collection, CollectionItem, LoraModule, Repo
from modules.services import update_listed

pytestmark = pytest.mark.django_db
SETTINGS = "/accounts/settings/"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


@pytest.fixture
def adas_modules(ada: User, lora_modules: list[LoraModule]) -> list[LoraModule]:
    """The last one is private."""
    pks = [module.repo_id for module in lora_modules]
    Repo.objects.filter(pk__in=pks).update(owner=ada.namespace)
    Repo.objects.filter(pk=pks[-1]).update(visibility=Repo.PRIVATE)
    found = list(LoraModule.objects.filter(repo__in=pks).order_by("repo_id"))
    for module in found:
        update_listed(module)
    return found


def see(user: User | None, address: str = "/ada") -> str:
    client = Client()
    if user is not None:
        client.force_login(user)
    return client.get(address).text


def test_it_shows_what_is_public_and_to_its_owner_everything(
    ada: User, bob: User, adas_modules: list[LoraModule]
) -> None:
    Collection.objects.create(owner=ada.namespace, name="best", title="The best of it")
    Collection.objects.create(
        owner=ada.namespace, name="own", title="Not for you", visibility=Collection.PRIVATE
    )
    *public, private = [f'href="{module.get_absolute_url()}"' for module in adas_modules]
    for visitor in (None, bob):
        page = see(visitor)
        assert all(link in page for link in public)
        assert private not in page
        assert "The best of it" in page and "Not for you" not in page
        assert "Upload a module" not in page.split("<main")[1]
    mine = see(ada)
    assert private in mine and "Not for you" in mine
    assert 'href="/upload/"' in mine.split("<main")[1]
    assert f'href="{SETTINGS}"' in mine.split("<main")[1]


def test_strangers_are_not_told_how_much_of_a_collection_they_cannot_see(
    ada: User, bob: User, adas_modules: list[LoraModule]
) -> None:
    best = Collection.objects.create(owner=ada.namespace, name="best", title="The best of it")
    for position, module in enumerate(adas_modules):
        CollectionItem.objects.create(collection=best, lora_module=module, position=position)
    many = len(adas_modules)
    assert f"{many} modules" in see(ada).split("The best of it")[1][:300]
    for visitor in (None, bob):
        assert f"{many - 1} modules" in see(visitor).split("The best of it")[1][:300]


def test_an_empty_profile_says_what_would_stand_there(ada: User, bob: User) -> None:
    assert "Modules that ada shares will stand here" in see(bob)
    assert "No collection yet" in see(ada)


def test_nothing_of_a_bio_is_markup(ada: User) -> None:
    User.objects.filter(pk=ada.pk).update(bio="<b>Engines</b>\nand looms")
    assert "&lt;b&gt;Engines&lt;/b&gt;<br>and looms" in see(None)


def test_a_former_users_profile_says_so(adas_modules: list[LoraModule]) -> None:
    Namespace.objects.filter(name="ada").update(kind=Namespace.FORMER, user=None)
    page = see(None)
    assert "ada deleted the account and left these modules to the community" in page
    assert adas_modules[0].get_absolute_url() in page
    Namespace.objects.create(name="zoe", kind=Namespace.FORMER)
    assert "the name stays taken" in see(None, "/zoe")


def test_it_asks_the_same_however_much_there_is(ada: User, adas_modules: list[LoraModule]) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as found:
            see(None)
        return len(found)

    Collection.objects.create(owner=ada.namespace, name="c", title="c")
    before = queries()
    for number in range(10):
        Collection.objects.create(owner=ada.namespace, name=f"c{number}", title="c")
    assert queries() == before


# --- settings ----------------------------------------------------------------------------------
def test_the_settings_lead_to_everything(client: Client, ada: User) -> None:
    client.force_login(ada)
    page = client.get(SETTINGS).text
    for name in ("email", "password/set", "tokens", "export", "delete", "notices"):
        assert f'href="/accounts/{name}/"' in page


def test_the_bio_is_kept_and_shown(client: Client, ada: User) -> None:
    client.force_login(ada)
    assert client.post(SETTINGS, {"profile": "1", "bio": "I weave."}).status_code == 302
    assert "I weave." in see(None)


def test_a_bio_that_is_too_long_is_told_so_and_kept(client: Client, ada: User) -> None:
    client.force_login(ada)
    answer = client.post(SETTINGS, {"profile": "1", "bio": "x" * 501})
    assert answer.status_code == 422
    assert "500" in answer.text and "x" * 501 in answer.text
    ada.refresh_from_db()
    assert ada.bio == ""


def test_mails_are_asked_for_and_refused_again(client: Client, ada: User) -> None:
    client.force_login(ada)
    for data, wanted in (({"notify_by_email": "on"}, True), ({}, False)):
        client.post(SETTINGS, {"notices": "1", **data})
        ada.refresh_from_db()
        assert ada.notify_by_email is wanted
    assert ada.bio == ""


@pytest.mark.parametrize("method", ["put", "delete"])
def test_the_settings_take_no_other_method(client: Client, ada: User, method: str) -> None:
    client.force_login(ada)
    answer: Any = getattr(client, method)(SETTINGS)
    assert answer.status_code == 405

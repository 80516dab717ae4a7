"""Collections: made, ordered and noted by their owner; seen by others as far as they may."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from hub_site.accounts.models import User
from modules.community import collections
from modules.finding import keyset
from modules.models import Collection, CollectionItem, LoraModule, Repo
from tests.modules.conftest import Publisher

NEW = {"title": "Short words", "description": "For short questions.", "visibility": "public"}


@pytest.fixture
def three(alice: User, base_model: Any, publish: Publisher) -> list[LoraModule]:
    return [publish(alice, f"m{number}", seed=number) for number in range(3)]


@pytest.fixture
def short_words(bob: User, three: list[LoraModule]) -> Collection:
    made = collections.create(owner=bob.namespace, title="Short words")
    for module in three:
        collections.add(made, module, note=f"note on {module.repo.name}")
    return made


def names(collection: Collection) -> list[str]:
    return [item.lora_module.repo.name for item in collection.items.all()]


def test_a_collection_begins_on_a_modules_page(
    client: Client, bob: User, opposites: LoraModule
) -> None:
    client.force_login(bob)
    page = client.get("/alice/opposites").content.decode()
    assert "/collections/new/?module=alice/opposites" in page
    form = client.get("/collections/new/?module=alice/opposites").content.decode()
    assert 'name="module" value="alice/opposites"' in form
    answer = client.post("/collections/new/", NEW | {"module": "alice/opposites"})
    assert answer["Location"] == "/collections/bob/short-words/"
    made = Collection.objects.get()
    assert names(made) == ["opposites"] and made.owner == bob.namespace
    page = client.get("/alice/opposites").content.decode()
    assert 'href="/collections/bob/short-words/"' in page


def test_a_module_goes_into_one_of_my_collections_once(
    client: Client, alice: User, bob: User, short_words: Collection, publish: Publisher
) -> None:
    publish(alice, "m9", seed=9)
    client.force_login(bob)
    for _ in range(2):
        answer = client.post("/alice/m9/collect", {"collection": "short-words"})
        assert answer["Location"] == "/alice/m9"
    assert names(short_words) == ["m0", "m1", "m2", "m9"]
    client.force_login(alice)
    assert client.post("/alice/m9/collect", {"collection": "short-words"}).status_code == 404


def test_it_is_ordered_without_javascript(
    client: Client, bob: User, short_words: Collection
) -> None:
    client.force_login(bob)

    def press(name: str, do: str, **more: str) -> None:
        item = CollectionItem.objects.get(lora_module__repo__name=name)
        client.post(f"/collections/bob/short-words/items/{item.pk}/", {"do": do, **more})

    press("m2", "up")
    assert names(short_words) == ["m0", "m2", "m1"]
    press("m0", "up")
    press("m1", "down")
    assert names(short_words) == ["m0", "m2", "m1"]
    press("m0", "down")
    assert names(short_words) == ["m2", "m0", "m1"]
    press("m1", "top")
    assert names(short_words) == ["m1", "m2", "m0"]
    press("m1", "up")
    press("m0", "down")
    assert names(short_words) == ["m1", "m2", "m0"]
    press("m1", "down")
    press("m1", "down")
    press("m2", "note", note="The best one.")
    assert "The best one." in client.get("/collections/bob/short-words/").content.decode()
    press("m0", "out")
    assert names(short_words) == ["m2", "m1"]


def test_a_long_one_is_turned_page_by_page(
    client: Client, alice: User, bob: User, short_words: Collection, publish: Publisher
) -> None:
    for number in range(3, keyset.SIZE + 1):
        collections.add(short_words, publish(alice, f"m{number}", seed=number))
    address = "/collections/bob/short-words/"
    client.force_login(bob)
    first = client.get(address)
    shown = [item.lora_module.repo.name for item in first.context["page"].items]
    assert shown == [f"m{number}" for number in range(keyset.SIZE)]
    assert "21 modules: 21 for lora-commons/tiny-t5" in first.content.decode()
    after = first.context["page"].next
    second = client.get(address, {"after": after})
    [last] = second.context["page"].items
    assert last.lora_module.repo.name == "m20" and "Previous page" in second.content.decode()
    assert 'value="up" aria-label="Move m20 up">' in second.content.decode()
    noted = client.post(f"{address}items/{last.pk}/", {"do": "note", "note": "x", "after": after})
    assert noted["Location"] == f"{address}?after={after}#item-{last.pk}"
    client.post(f"{address}items/{last.pk}/", {"do": "out", "after": after})
    assert "changed meanwhile" in client.get(address, {"after": after}).content.decode()
    assert client.get(address, {"after": "x"}).status_code == 422


def test_others_see_the_notes_and_change_nothing(
    client: Client, alice: User, short_words: Collection
) -> None:
    url = "/collections/bob/short-words/"
    item = short_words.items.all()[0]
    client.force_login(alice)
    page = client.get(url).content.decode()
    assert "note on m0" in page and "Take out" not in page
    assert client.post(f"{url}items/{item.pk}/", {"do": "out"}).status_code == 404
    for path in (f"{url}edit/", f"{url}delete/"):
        assert client.get(path).status_code == 404 == client.post(path, NEW).status_code
    assert names(short_words) == ["m0", "m1", "m2"]


def test_private_modules_in_a_public_collection_are_invisible_to_others(
    client: Client, alice: User, bob: User, short_words: Collection
) -> None:
    Repo.objects.filter(name="m1").update(visibility="private")
    for user, sees in ((None, False), (bob, False), (alice, True)):
        if user:
            client.force_login(user)
        page = client.get("/collections/bob/short-words/").content.decode()
        assert ("m1" in page) == sees and "m0" in page


def test_a_private_collection_is_for_its_owner(
    client: Client, alice: User, bob: User, short_words: Collection
) -> None:
    client.force_login(bob)
    edited = NEW | {"visibility": "private", "title": "Mine alone"}
    assert client.post("/collections/bob/short-words/edit/", edited).status_code == 302
    assert "Mine alone" in client.get("/collections/").content.decode()
    for user in (None, alice):
        client.logout() if user is None else client.force_login(user)
        assert client.get("/collections/bob/short-words/").status_code == 404
        assert "Mine alone" not in client.get("/collections/").content.decode()
        assert "Mine alone" not in client.get("/alice/m0").content.decode()


def test_deleting_asks_first_and_keeps_the_modules(
    client: Client, bob: User, short_words: Collection
) -> None:
    client.force_login(bob)
    assert (
        "order and notes are lost"
        in client.get("/collections/bob/short-words/delete/").content.decode()
    )
    assert Collection.objects.exists()
    client.post("/collections/bob/short-words/delete/")
    assert not Collection.objects.exists() and LoraModule.objects.count() == 3


@pytest.mark.parametrize(
    "changes", [{"title": ""}, {"title": "x" * 121}, {"visibility": "secret"}, {"visibility": ""}]
)
def test_bad_input_comes_back_as_it_was_typed(
    client: Client, bob: User, changes: dict[str, str]
) -> None:
    client.force_login(bob)
    answer = client.post("/collections/new/", NEW | changes)
    assert answer.status_code == 422 and "For short questions." in answer.content.decode()
    assert not Collection.objects.exists()


def test_two_of_one_title_have_two_addresses(bob: User) -> None:
    made = [collections.create(owner=bob.namespace, title=title).name for title in (
        "Short words!", "short WORDS", "Short words", "Новые", "日本", "edit", "new",
    )]  # fmt: skip
    assert made == [
        "short-words", "short-words-2", "short-words-3", "collection", "collection-2",
        "edit-2", "new-2",
    ]  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_many_changes_at_once_leave_one_order(bob: User, short_words: Collection) -> None:
    items = list(short_words.items.all())

    def shake(number: int) -> None:
        try:
            collections.move(items[number % 3], 1 if number % 2 else -1)
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as hands:
        list(hands.map(shake, range(30)))
    assert sorted(names(short_words)) == ["m0", "m1", "m2"]
    assert sorted(short_words.items.values_list("position", flat=True)) == [0, 1, 2]


def test_visitors_are_asked_to_sign_in(client: Client, three: list[LoraModule]) -> None:
    login = "/accounts/login/?next="
    assert client.get("/collections/new/")["Location"] == f"{login}/collections/new/"
    answer = client.post("/alice/m0/collect", {"collection": "x"})
    assert answer["Location"] == f"{login}/alice/m0"
    assert client.post("/collections/bob/c/items/1/")["Location"] == f"{login}/collections/"
    assert "Sign in" in client.get("/alice/m0").content.decode()


def test_the_pages_cost_the_same_for_many_modules(
    client: Client, alice: User, bob: User, short_words: Collection, publish: Publisher,
    django_assert_max_num_queries: Any,
) -> None:  # fmt: skip
    from django.test.utils import CaptureQueriesContext

    def cost(url: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            client.get(url)
        return len(queries)

    urls = ["/collections/", "/collections/bob/short-words/"]
    before = [cost(url) for url in urls]
    for number in range(10, 16):
        collections.add(short_words, publish(alice, f"m{number}", seed=number))
        collections.create(owner=bob.namespace, title=f"Another {number}")
    assert [cost(url) for url in urls] == before

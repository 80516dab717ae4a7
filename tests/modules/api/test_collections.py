"""Collections for programs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from drf_spectacular.generators import SchemaGenerator

from hub_site.accounts.models import User
from modules.community import collections
from modules.models import Collection, LoraModule, Repo
from modules.repos import ownership
from tests.modules.api.test_authors import Program, said
from tests.modules.conftest import Publisher

COLLECTIONS = "/api/v1/collections/"
WORDS = f"{COLLECTIONS}alice/words/"


@pytest.fixture
def words(alice: User, opposites: LoraModule) -> Collection:
    made = collections.create(owner=alice.namespace, title="Words", description="About words.")
    collections.add(made, opposites, note="The first.")
    return made


def names(answer: Any) -> list[str]:
    return [row["name"] for row in answer.json()["modules"]]


def test_everybody_reads_a_public_collection(words: Collection) -> None:
    nobody = Program(None)
    assert [row["name"] for row in nobody.send("get", COLLECTIONS).json()["results"]] == [
        "alice/words"
    ]
    found = nobody.send("get", WORDS).json()
    assert (found["title"], found["description"]) == ("Words", "About words.")
    assert found["url"].endswith("/collections/alice/words/")
    [row] = found["modules"]
    assert (row["name"], row["note"], row["r"]) == ("alice/opposites", "The first.", 2)


def test_what_is_private_in_it_or_is_it_stays_private(
    alice: User, bob: User, words: Collection, secret: LoraModule
) -> None:
    collections.add(words, secret)
    assert names(Program(alice).send("get", WORDS)) == ["alice/opposites", "alice/secret"]
    assert names(Program(bob).send("get", WORDS)) == ["alice/opposites"]
    Collection.objects.update(visibility=Collection.PRIVATE)
    stranger = Program(bob)
    assert said(stranger.send("get", WORDS)) == (404, "not_found")
    assert said(stranger.send("patch", WORDS, {"title": "x"})) == (404, "not_found")
    assert stranger.send("get", COLLECTIONS).json()["results"] == []


def test_a_program_makes_changes_and_deletes_one(
    bob: User, opposites: LoraModule, alice: User, publish: Publisher
) -> None:
    publish(alice, "other", seed=3)
    program = Program(bob)
    answer = program.send(
        "post", COLLECTIONS, {"title": "Mine", "modules": ["alice/other", "alice/opposites"]}
    )
    assert answer.status_code == 201, answer.content
    assert answer.json()["name"] == "bob/mine"
    assert names(answer) == ["alice/other", "alice/opposites"]
    mine = f"{COLLECTIONS}bob/mine/"
    change = {"title": "Ours", "visibility": "private"}
    found = program.send("patch", mine, change).json()
    assert (found["title"], found["visibility"], found["name"]) == ("Ours", "private", "bob/mine")
    noted = program.send("put", f"{mine}modules/alice/other/", {"note": "Good."}).json()
    assert [row["note"] for row in noted["modules"]] == ["Good.", ""]
    again = program.send("put", f"{mine}modules/alice/other/", {}).json()
    assert [row["note"] for row in again["modules"]] == ["Good.", ""]
    bare = program.send("put", f"{mine}modules/alice/other/", {"note": ""}).json()
    assert [row["note"] for row in bare["modules"]] == ["", ""]
    assert names(program.send("delete", f"{mine}modules/alice/other/")) == ["alice/opposites"]
    assert program.send("delete", f"{mine}modules/alice/other/").status_code == 404
    assert names(program.send("put", f"{mine}modules/alice/other/", {})) == [
        "alice/opposites",
        "alice/other",
    ]
    assert program.send("delete", mine).status_code == 204
    assert program.send("get", mine).status_code == 404


def test_a_program_says_what_is_in_it_and_in_which_order(
    alice: User, bob: User, words: Collection, publish: Publisher
) -> None:
    for n, name in enumerate(["first", "second"]):
        publish(bob, name, seed=n + 3)
    program = Program(alice)
    wanted = ["bob/second", "alice/opposites", "bob/first"]
    found = program.send("patch", WORDS, {"modules": wanted})
    assert names(found) == wanted == names(Program(None).send("get", WORDS))
    assert [row["note"] for row in found.json()["modules"]] == ["", "The first.", ""]
    assert found.json()["title"] == "Words"
    kept = program.send("patch", WORDS, {"title": "Others", "modules": wanted[::2]}).json()
    assert [row["name"] for row in kept["modules"]] == wanted[::2] and kept["title"] == "Others"
    assert names(program.send("patch", WORDS, {"modules": []})) == []


def test_what_its_owner_may_not_see_stays_behind_the_others(
    alice: User, bob: User, words: Collection, publish: Publisher
) -> None:
    theirs = [publish(bob, f"m{n}", seed=n + 3) for n in range(3)]
    for module in theirs:
        collections.add(words, module)
    Repo.objects.filter(pk=theirs[0].repo_id).update(visibility="private")
    Program(alice).send("patch", WORDS, {"modules": ["bob/m2", "bob/m1"]})
    assert names(Program(alice).send("get", WORDS)) == ["bob/m2", "bob/m1"]
    Repo.objects.update(visibility="public")
    assert names(Program(alice).send("get", WORDS)) == ["bob/m2", "bob/m1", "bob/m0"]


@pytest.mark.parametrize(
    "given", [["alice/opposites"] * 2, ["alice/opposites", "ALICE/Opposites"], ["alice/none"], [3]]
)
def test_a_wrong_list_of_modules_changes_nothing(
    alice: User, words: Collection, given: list[Any]
) -> None:
    answer = Program(alice).send("patch", WORDS, {"title": "Changed", "modules": given})
    assert said(answer) == (422, "invalid") and answer.json()["fields"]["modules"]
    assert Collection.objects.get().title == "Words"
    assert names(Program(alice).send("get", WORDS)) == ["alice/opposites"]


def test_it_says_how_many_it_holds(
    alice: User, words: Collection, publish: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collections, "MOST_ITEMS", 2)
    for n in range(2):
        publish(alice, f"m{n}", seed=n + 3)
    program = Program(alice)
    assert program.send("put", f"{WORDS}modules/alice/m0/", {}).status_code == 200
    full = program.send("put", f"{WORDS}modules/alice/m1/", {})
    assert said(full) == (422, "too_many") and "more than 2 modules" in full.json()["message"]
    three = {"modules": ["alice/m0", "alice/m1", "alice/opposites"]}
    assert said(program.send("patch", WORDS, three)) == (422, "too_many")
    assert said(program.send("post", COLLECTIONS, three | {"title": "x"})) == (422, "too_many")
    assert Collection.objects.get().items.count() == 2


def test_a_collection_is_never_taken_for_a_module_that_moved(
    alice: User, words: Collection, publish: Publisher
) -> None:
    """Even when a module was once called what the collection is called."""
    ownership.rename(publish(alice, "words", seed=4).repo, "sentences")
    ownership.rename(publish(alice, "gone", seed=5).repo, "elsewhere")
    program = Program(alice)
    assert program.send("delete", f"{WORDS}modules/alice/gone/").status_code == 404
    for path in ("gone/", "gone/modules/alice/opposites/"):
        assert program.send("delete", f"{COLLECTIONS}alice/{path}").status_code == 404
    assert program.client.get("/collections/alice/gone/").status_code == 404


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({}, "title"),
        ({"title": "x" * 121}, "title"),
        ({"title": "x", "visibility": "link"}, "visibility"),
        ({"title": "x", "colour": "red"}, "colour"),
        ({"title": "x", "modules": ["alice/opposites", "alice/secret"]}, "modules"),
        ({"title": "x", "modules": ["opposites"]}, "modules"),
    ],
)
def test_it_says_what_is_wrong_and_makes_none(
    bob: User, opposites: LoraModule, secret: LoraModule, data: Any, field: str
) -> None:
    answer = Program(bob).send("post", COLLECTIONS, data)
    assert said(answer) == (422, "invalid")
    assert answer.json()["fields"][field]
    assert not Collection.objects.exists()


def test_only_the_owner_writes(
    alice: User, bob: User, words: Collection, opposites: LoraModule
) -> None:
    collected = f"{WORDS}modules/alice/opposites/"
    writes = [
        ("patch", WORDS, {"title": "x"}), ("delete", WORDS, None), ("put", collected, {}),
        ("delete", collected, None),
    ]  # fmt: skip
    for method, path, data in writes:
        assert said(Program(bob).send(method, path, data)) == (403, "not_yours")
        reader = Program(alice, scope="read")
        assert said(reader.send(method, path, data)) == (403, "read_only_token")
        assert Program(None).send(method, path, data).status_code == 401
    assert Program(None).send("post", COLLECTIONS, {"title": "x"}).status_code == 401
    assert collections.shown_items(words, alice).count() == 1


def test_the_description_says_what_is_answered(alice: User, words: Collection) -> None:
    described = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    one = f"{COLLECTIONS}{{owner}}/{{slug}}/"
    collected = f"{one}modules/{{module_owner}}/{{module_name}}/"
    like = "/api/v1/modules/{owner}/{name}/like/"
    module = {"module_owner": "alice", "module_name": "opposites"}
    names = {"owner": "alice", "slug": "words", "name": "opposites", **module}
    for method, path, data in [
        ("get", COLLECTIONS, None), ("post", COLLECTIONS, {"title": "More"}), ("get", one, None),
        ("patch", one, {"modules": ["alice/opposites"]}), ("put", collected, {}),
        ("delete", collected, None), ("put", like, None), ("delete", like, None),
        ("delete", one, None),
    ]:  # fmt: skip
        answer = Program(alice).send(method, path.format(**names), data)
        said = [code for code in described[path][method]["responses"] if code != "default"]
        assert [str(answer.status_code)] == said, path  # "default" is how errors look
    assert "Paginated" in str(described[COLLECTIONS]["get"]["responses"])


def test_lists_of_them_are_followed_by_links(alice: User) -> None:
    for n in range(5):
        collections.create(owner=alice.namespace, title=f"c{n}")
    seen, url = [], f"{COLLECTIONS}?page_size=2"
    while url:
        found = Program(None).send("get", url).json()
        seen.append([row["name"] for row in found["results"]])
        url = found["next"]
    assert seen == [["alice/c4", "alice/c3"], ["alice/c2", "alice/c1"], ["alice/c0"]]


def test_it_costs_the_same_for_10_and_20(alice: User, base_model: Any, publish: Publisher) -> None:
    made = collections.create(owner=alice.namespace, title="Words")
    counts = []
    for start in (0, 10):
        for n in range(start, start + 10):
            collections.create(owner=alice.namespace, title=f"Number {n}")
            collections.add(made, publish(alice, f"m{n}", seed=n))
        with CaptureQueriesContext(connection) as queries:
            assert len(Program(None).send("get", COLLECTIONS).json()["results"]) == start + 11
            assert len(names(Program(None).send("get", WORDS))) == start + 10
        counts.append(len(queries))
    assert counts[0] == counts[1]

"""Collections for programs."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from hub_site.accounts.models import User
from modules.community import collections
from modules.models import Collection, LoraModule
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
    assert names(program.send("delete", f"{mine}modules/alice/other/")) == ["alice/opposites"]
    assert program.send("delete", f"{mine}modules/alice/other/").status_code == 404
    assert names(program.send("put", f"{mine}modules/alice/other/", {})) == [
        "alice/opposites",
        "alice/other",
    ]
    assert program.send("delete", mine).status_code == 204
    assert program.send("get", mine).status_code == 404


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

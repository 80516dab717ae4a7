from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules.models import LoraModule
from tests.modules.conftest import Publisher

MODULES = "/api/v1/modules/"


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["name"] for row in answer.json()["results"]]


def test_it_lists_modules(client: Client, opposites: LoraModule) -> None:
    answer = client.get(MODULES)
    assert names(answer) == ["alice/opposites"]
    row = answer.json()["results"][0]
    assert row["base_model"] == "lora-commons/tiny-t5"
    assert row["revision"] == opposites.commit.sha
    assert row["is_composable"] is True and row["status"] == "ready"
    assert row["tags"] == ["opposites", "words"]
    assert row["url"] == "http://testserver/alice/opposites"
    assert (row["downloads"], row["recipe_count"]) == (0, 0)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "opp"}, 1), ({"q": "zzz"}, 0), ({"tag": "words"}, 1), ({"tag": "x"}, 0),
        ({"r": 2}, 1), ({"r": 3}, 0), ({"target": ["q", "v"]}, 1), ({"owner": "alice"}, 1),
        ({"base_model": "lora-commons/tiny-t5"}, 1), ({"base_model": "x"}, 0),
    ],
)  # fmt: skip
def test_it_filters_as_the_page_does(
    client: Client, opposites: LoraModule, query: Any, found: int
) -> None:
    assert len(names(client.get(MODULES, query))) == found


def test_its_pages_are_followed_by_links(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    for n in range(5):
        publish(alice, f"m{n}", seed=n)
    seen, url = [], f"{MODULES}?page_size=2&sort=name"
    while url:
        answer = client.get(url)
        seen.append(names(answer))
        url = answer.json()["next"]
    assert seen == [["alice/m0", "alice/m1"], ["alice/m2", "alice/m3"], ["alice/m4"]]
    assert names(client.get(answer.json()["previous"])) == seen[1]


@pytest.mark.parametrize(
    ("query", "field"), [({"r": "x"}, "r"), ({"sort": "up"}, "sort"), ({"q": "x" * 201}, "q")]
)
def test_bad_filters_are_answered_in_words(
    client: Client, db: None, query: Any, field: str
) -> None:
    answer = client.get(MODULES, query)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid"
    assert answer.json()["fields"][field]


def test_a_name_or_size_that_cannot_be_is_no_fault_of_ours(client: Client, db: None) -> None:
    assert client.get(f"{MODULES}a/%00/").status_code == 404
    assert client.get(f"{MODULES}%00/b/").status_code == 404
    assert client.get(MODULES, {"page_size": "9" * 5_000}).status_code == 200


def test_a_damaged_cursor_is_answered_in_words(client: Client, db: None) -> None:
    answer = client.get(MODULES, {"after": "nonsense"})
    assert answer.status_code == 422 and answer.json()["code"] == "bad_cursor"


def test_it_costs_the_same_for_10_rows_and_20(
    client: Client, alice: User, base_model: Any, publish: Publisher
) -> None:
    counts = []
    for start in (0, 10):
        for n in range(start, start + 10):
            publish(alice, f"m{n}", seed=n)
        with CaptureQueriesContext(connection) as queries:
            assert len(names(client.get(MODULES))) == start + 10
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 4


def test_one_module_comes_with_checks_and_files(client: Client, opposites: LoraModule) -> None:
    answer = client.get(f"{MODULES}Alice/opposites/")
    assert answer.status_code == 200
    found = answer.json()
    assert {check["state"] for check in found["checks"]} == {"ok"}
    assert found["checks"][0]["figure"] == "4 tensors"
    assert found["not_composable"] == "" and found["variant"] == {}
    files = {file["path"]: file for file in found["files"]}
    weights = files["adapter_model.safetensors"]
    assert weights["sha256"] == opposites.weights_sha256
    assert client.get(weights["url"]).getvalue().__len__() == weights["size"]


def test_private_modules_are_their_owners(
    client: Client, alice: User, bob: User, secret: LoraModule
) -> None:
    url = f"{MODULES}alice/secret/"

    def seen(token: str) -> tuple[int, list[str]]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return (
            client.get(url, headers=headers).status_code,
            names(client.get(MODULES, headers=headers)),
        )

    own = tokens.create_token(alice, name="mine", scope="read")[1]
    other = tokens.create_token(bob, name="other", scope="write")[1]
    assert seen("") == (404, [])
    assert seen(other) == (404, [])
    assert seen(own) == (200, ["alice/secret"])
    assert client.get(url).json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("url", "methods"),
    [
        (MODULES, ["put", "patch", "delete"]),
        (f"{MODULES}alice/opposites/", ["post", "put"]),
        ("/api/v1/base-models/", ["post", "put", "patch", "delete"]),
    ],
)
def test_it_knows_no_other_methods(
    client: Client, alice: User, opposites: LoraModule, url: str, methods: list[str]
) -> None:
    token = tokens.create_token(alice, name="mine", scope="write")[1]
    headers = {"Authorization": f"Bearer {token}"}
    for method in methods:
        assert getattr(client, method)(url, headers=headers).status_code == 405


def test_it_lists_base_models(client: Client, base_model: Any) -> None:
    answer = client.get("/api/v1/base-models/")
    assert names(answer) == ["lora-commons/tiny-t5"]
    row = answer.json()["results"][0]
    assert row["revision"] == base_model.revision and row["is_encoder_decoder"] is True


def test_the_openapi_document_describes_it(client: Client, db: None) -> None:
    answer = client.get("/api/schema/", {"format": "json"})
    assert answer.status_code == 200
    paths = answer.json()["paths"]
    parameters = {p["name"] for p in paths["/api/v1/modules/"]["get"]["parameters"]}
    assert {"q", "tag", "target", "r", "base_model", "sort", "after", "page_size"} <= parameters
    assert "/api/v1/modules/{owner}/{name}/" in paths and "/api/v1/base-models/" in paths

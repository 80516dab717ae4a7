"""Who gets where: every address of the library, by every kind of visitor, to every kind of module.

The addresses come from the URLconf: one without a rule here fails the suite.
"""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, reverse

from hub_site.accounts.models import User
from modules import services, urls
from modules.api import views as api
from modules.community import collections, moderation
from modules.models import Collection, LoraModule, Repo
from modules.repos import gate
from tests.modules.conftest import make_user

VISITORS = ("anonymous", "stranger", "moderator", "owner")  # the owner last: owners may delete
KINDS = ("public", "gated", "private", "hidden")
SEEN = ("public", "gated")
IN, SIGN_IN, GONE, FORBIDDEN = "let in", "asked to sign in", "as if not there", "forbidden"

Rule = Callable[[str, str], str]  # the module's kind, the visitor -> what happens


def anybody(kind: str, visitor: str) -> str:
    return IN


def with_account(kind: str, visitor: str) -> str:
    return SIGN_IN if visitor == "anonymous" else IN


def nobody_here(kind: str, visitor: str) -> str:
    """Without an OAuth app, a list of imports, or an origin of this module: see their own tests."""
    return SIGN_IN if visitor == "anonymous" else GONE


def who_sees_it(kind: str, visitor: str) -> str:
    if kind in SEEN or visitor == "owner" or (kind, visitor) == ("hidden", "moderator"):
        return IN
    return GONE


def who_sees_it_and_has_an_account(kind: str, visitor: str) -> str:
    seen = who_sees_it(kind, visitor)
    return SIGN_IN if (seen, visitor) == (IN, "anonymous") else seen


def who_has_access(kind: str, visitor: str) -> str:
    if kind == "gated" and visitor in ("anonymous", "stranger"):
        return SIGN_IN if visitor == "anonymous" else FORBIDDEN
    return who_sees_it(kind, visitor)


def its_owner(kind: str, visitor: str) -> str:
    return {"owner": IN, "anonymous": SIGN_IN}.get(visitor, GONE)


def its_owner_by_program(kind: str, visitor: str) -> str:
    """A program that may see it is told that it may not change it."""
    if visitor in ("owner", "anonymous"):
        return its_owner(kind, visitor)
    return FORBIDDEN if who_sees_it(kind, visitor) == IN else GONE


def with_account_what_it_sees(kind: str, visitor: str) -> str:
    return SIGN_IN if visitor == "anonymous" else who_sees_it(kind, visitor)


# By the pattern's name or, without one, its route: [(method, rule)].
RULES: dict[str, list[tuple[str, Rule]]] = {
    "list": [("get", anybody)],
    "tags": [("get", anybody)],
    "tag": [("get", anybody)],
    "tag_suggest": [("get", anybody)],
    "collections": [("get", anybody)],
    "collection_new": [("get", with_account), ("post", with_account)],
    "likes": [("get", with_account)],
    "collection": [("get", who_sees_it)],
    "collection_edit": [("get", its_owner), ("post", its_owner)],
    "collection_item": [("post", its_owner)],
    "collection_delete": [("get", its_owner), ("post", its_owner)],
    "upload": [("get", with_account), ("post", with_account)],
    "hub_account": [("get", with_account), ("post", with_account)],
    "hub_connect": [("post", nobody_here)],
    "hub_disconnect": [("post", with_account)],
    "import": [("get", with_account), ("post", with_account)],
    "import_batch": [("get", nobody_here)],
    "import_cancel": [("post", nobody_here)],
    "import_again": [("post", nobody_here)],
    "origin_look": [("post", nobody_here)],
    "origin_follow": [("post", nobody_here)],
    "profile": [("get", anybody)],
    "<owner:owner>/": [("get", anybody)],
    "repo": [("get", who_sees_it)],
    "<owner:owner>/<repo:name>/": [("get", anybody)],  # leads to the page, which decides
    "commits": [("get", who_sees_it)],
    "archive": [("get", who_has_access)],
    "resolve": [("get", who_has_access)],
    "ask_access": [("post", who_sees_it_and_has_an_account)],
    "withdraw_access": [("post", who_sees_it_and_has_an_account)],
    "report": [("get", who_sees_it), ("post", who_sees_it)],
    "like": [("post", who_sees_it_and_has_an_account)],
    "collect": [("post", who_sees_it_and_has_an_account)],
    "new_version": [("get", its_owner), ("post", its_owner)],
    "settings": [("get", its_owner), ("post", its_owner)],
    "set_visibility": [("post", its_owner)],
    "set_gate": [("post", its_owner)],
    "access": [("get", its_owner), ("post", its_owner)],
    "grant": [("post", its_owner)],
    "home": [("post", its_owner)],
    "rename": [("post", its_owner)],
    "delete": [("post", its_owner)],
    # for programs
    "api-modules": [("get", anybody), ("post", with_account)],
    "api-module": [
        ("get", who_sees_it), ("patch", its_owner_by_program), ("delete", its_owner_by_program),
    ],
    "api-module-versions": [("get", who_sees_it), ("post", its_owner_by_program)],
    "api-module-like": [
        ("put", with_account_what_it_sees), ("delete", with_account_what_it_sees),
    ],
    "api-job-file": [],  # for workers alone: api/test_job_files.py
    "api-base-models": [("get", anybody)],
    "api-tags": [("get", anybody)],
    "api-collections": [("get", anybody), ("post", with_account)],
    "api-collection": [
        ("get", who_sees_it), ("patch", its_owner_by_program), ("delete", its_owner_by_program),
    ],
    "api-collected": [("put", its_owner_by_program), ("delete", its_owner_by_program)],
}  # fmt: skip


def patterns() -> Iterator[tuple[str, URLPattern, bool]]:
    for conf in (urls, api):
        for pattern in conf.urlpatterns:
            assert isinstance(pattern, URLPattern), "walk included URLconfs here too"
            yield pattern.name or str(pattern.pattern), pattern, conf is api


def test_every_address_of_the_library_has_a_rule() -> None:
    assert {name for name, _, _ in patterns()} == set(RULES)


def address(name: str, pattern: URLPattern, is_api: bool, item: int) -> str:
    values = {
        "owner": "alice", "name": "thing", "slug": "things", "pk": item,
        "rest": "main/adapter_config.json", "batch": str(uuid.UUID(int=1)),
        "module_owner": "alice", "module_name": "thing",
    }  # fmt: skip
    if name == "tag":
        values["name"] = "words"
    wanted = {key: values[key] for key in pattern.pattern.converters}
    if pattern.name is None:
        route = str(pattern.pattern)
        return "/" + route.replace("<owner:owner>", "alice").replace("<repo:name>", "thing")
    return reverse(pattern.name if is_api else f"modules:{pattern.name}", kwargs=wanted)


@pytest.fixture
def people(alice: User, bob: User) -> dict[str, User | None]:
    moderator = make_user("mara")
    moderator.is_staff = True
    moderator.save()
    return {"anonymous": None, "stranger": bob, "moderator": moderator, "owner": alice}


def a_thing(kind: str, people: dict[str, Any], publish: Any) -> int:
    """alice/thing and her collection of it, both of this kind; alice/other is public."""
    publish(people["owner"], "other", seed=5)
    module: LoraModule = publish(people["owner"], "thing")
    things = collections.create(owner=people["owner"].namespace, title="Things")
    collections.add(things, module)
    if kind == "gated":
        gate.set_gate(module.repo, Repo.MANUAL)
    if kind == "private":
        Repo.objects.filter(pk=module.repo_id).update(visibility="private")
        Collection.objects.update(visibility="private")
        services.update_listed(module)
    if kind == "hidden":
        moderator = people["moderator"]
        moderation.hide(module.repo, moderator=moderator, reason="Not theirs.")
        moderation.hide_collection(things, moderator=moderator, reason="Not theirs.")
    return things.items.get().pk


def outcome(answer: Any) -> str:
    leads_to = answer.headers.get("Location", "")
    if answer.status_code == 401 or leads_to.startswith("/accounts/login/"):
        return SIGN_IN
    if answer.status_code == 404:
        return GONE
    if answer.status_code == 403:
        return FORBIDDEN
    assert answer.status_code in (200, 201, 204, 301, 302, 400, 409, 415, 422), answer.status_code
    return IN  # bad input is told only to who was let in


@pytest.mark.parametrize("kind", KINDS)
def test_each_visitor_gets_where_the_rule_says(
    kind: str, people: dict[str, User | None], base_model: Any, publish: Any
) -> None:
    item = a_thing(kind, people, publish)
    for name, pattern, is_api in patterns():
        if not RULES[name]:
            continue
        url = address(name, pattern, is_api, item)
        with transaction.atomic():  # what was done by one address, the next does not find
            for method, rule in RULES[name]:
                for visitor in VISITORS:
                    answer = ask(url, method, people[visitor], is_api)
                    assert outcome(answer) == rule(kind, visitor), (method, url, visitor)
            transaction.set_rollback(True)


def ask(url: str, method: str, user: User | None, is_api: bool) -> Any:
    client = Client()
    if user:
        client.force_login(user)
    more = {"content_type": "application/json"} if is_api and method != "get" else {}
    return getattr(client, method)(url, **more)


LISTS = [
    "/modules/", "/modules/?q=thing", "/modules/?sort=likes", "/alice", "/tags/words/",
    "/search/?q=thing", "/api/v1/modules/", "/api/v1/modules/?q=thing", "/collections/",
    "/api/v1/collections/", "/alice/other", "/lora-commons/tiny-t5", "/",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["private", "hidden"])
def test_no_list_names_it_to_strangers(
    kind: str, people: dict[str, User | None], base_model: Any, publish: Any
) -> None:
    a_thing(kind, people, publish)
    for url in LISTS:
        for visitor in ("anonymous", "stranger"):
            answer = ask(url, "get", people[visitor], is_api=False)
            assert answer.status_code == 200, (url, visitor)
            body = answer.content.decode()
            assert "alice/thing" not in body and "collections/alice" not in body, (url, visitor)

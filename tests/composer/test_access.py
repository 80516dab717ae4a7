"""Who gets where: every address of the composer, by every kind of visitor, to every kind of task.

The addresses come from the URLconf: one without a rule here fails the suite. alice composed on
the task and published nothing; what a stranger made of it is in test_sharing.py.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, reverse

from composer import api, sharing, urls
from composer.models import FewShotTask
from hub_site.accounts.models import User
from tests.composer import finished
from tests.composer.conftest import make_user
from tests.modules.test_access import (
    GONE,
    IN,
    SIGN_IN,
    VISITORS,
    Rule,
    anybody,
    its_owner,
    outcome,
    who_sees_it,
    with_account,
)

KINDS = ("public", "private", "hidden")


def sees_or_signs_in(kind: str, visitor: str) -> str:
    """A page that may be the visitor's own: whoever is not signed in is asked to."""
    seen = who_sees_it(kind, visitor)
    return SIGN_IN if (seen, visitor) == (GONE, "anonymous") else seen


def who_may_report(kind: str, visitor: str) -> str:
    return GONE if kind == "private" else who_sees_it(kind, visitor)


def nobody(kind: str, visitor: str) -> str:
    return GONE


def sees_with_account(kind: str, visitor: str) -> str:
    return SIGN_IN if visitor == "anonymous" else who_sees_it(kind, visitor)


# By the pattern's name: [(method, rule)].
RULES: dict[str, list[tuple[str, Rule]]] = {
    "tasks": [("get", anybody)],
    "task_new": [("get", anybody)],
    "shared": [("get", anybody)],
    "task_preview": [("post", anybody)],
    "task": [("get", sees_or_signs_in)],
    "task_edit": [("get", its_owner), ("post", its_owner)],
    "task_duplicate": [("post", who_sees_it)],
    "task_compose": [("get", sees_or_signs_in), ("post", who_sees_it)],
    "task_share": [("get", its_owner)],
    "task_stop_sharing": [],  # test_sharing.py; here it would change the kind
    "task_report": [("get", who_may_report), ("post", who_may_report)],
    "task_delete": [("get", its_owner), ("post", its_owner)],
    "try_demo": [("post", nobody)],
    "job": [("get", its_owner)],
    "job_cancel": [("post", its_owner)],
    "job_publish": [("get", its_owner)],
    "job_adapter": [("get", its_owner)],
    "job_try": [("post", its_owner)],
    "job_weigh": [("post", its_owner)],
    "recipes": [("get", anybody)],
    "recipe": [("get", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    "recipe_json": [("get", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    "recipe_adapter": [("get", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    "recipe_import": [("get", anybody)],
    "recipe_import_remove": [
        ("post", lambda kind, visitor: SIGN_IN if visitor == "anonymous" else GONE)
    ],
    "recipe_verify": [("post", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    "recipe_like": [("post", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    "recipe_hub": [("post", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    # for programs
    "api-tasks": [("get", anybody), ("post", with_account)],
    "api-task": [("get", who_sees_it), ("put", its_owner), ("delete", its_owner)],
    "api-task-publish": [],  # test_sharing.py
    "api-jobs": [("get", with_account), ("post", with_account)],
    "api-job": [("get", its_owner)],
    "api-job-cancel": [("post", its_owner)],
    "api-job-publish": [("post", its_owner)],
    "api-job-try": [("post", its_owner)],
    "api-job-adapter": [("get", its_owner)],
    "api-recipes": [("get", anybody)],
    "api-recipe": [("get", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    "api-recipe-adapter": [("get", lambda kind, visitor: IN if visitor == "owner" else GONE)],
    "api-recipe-import": [("post", with_account)],
    "api-recipe-verifications": [
        ("get", lambda kind, visitor: IN if visitor == "owner" else GONE)
    ],
    "api-recipe-like": [],  # test_views_verify.py
}  # fmt: skip


def patterns() -> Iterator[tuple[str, URLPattern, bool]]:
    for conf in (urls, api):
        for pattern in conf.urlpatterns:
            yield str(pattern.name), pattern, conf is api


def test_every_address_of_the_composer_has_a_rule() -> None:
    assert {name for name, _, _ in patterns()} == set(RULES)


@pytest.fixture
def people(alice: User, bob: User) -> dict[str, User | None]:
    moderator = make_user("mara")
    moderator.is_staff = True
    moderator.save()
    return {"anonymous": None, "stranger": bob, "moderator": moderator, "owner": alice}


def make(kind: str, task: FewShotTask, people: dict[str, Any]) -> None:
    if kind != "private":
        sharing.share(task, user=people["owner"])
    if kind == "hidden":
        sharing.hide(task, moderator=people["moderator"], reason="Not theirs.")


@pytest.mark.parametrize("kind", KINDS)
def test_each_visitor_gets_where_the_rule_says(
    kind: str, task: FewShotTask, people: dict[str, User | None]
) -> None:
    make(kind, task, people)
    search = finished.finish(finished.start(task, people["owner"]))
    for name, pattern, is_api in patterns():
        is_of_job = name.startswith(("job", "api-job"))
        values = {
            "pk": search.pk if is_of_job else task.pk,
            "demo_key": "none",
            "digest": search.recipe_id,
        }
        wanted = {
            key: values[key]
            for key in (*getattr(pattern.pattern, "converters", ()), *_groups(pattern))
        }
        url = reverse(name if is_api else f"composer:{name}", kwargs=wanted)
        for method, rule in RULES[name]:
            for visitor in VISITORS:
                client = Client()
                if user := people[visitor]:
                    client.force_login(user)
                more = {"content_type": "application/json"} if is_api and method != "get" else {}
                with transaction.atomic():  # what one of them did, the next one does not find
                    answer = getattr(client, method)(url, **more)
                    transaction.set_rollback(True)
                assert outcome(answer) == rule(kind, visitor), (method, url, visitor)


def _groups(pattern: URLPattern) -> Iterator[str]:
    yield from getattr(getattr(pattern.pattern, "regex", None), "groupindex", ())


LISTS = ["/tasks/", "/tasks/shared/", "/search/?q=opposites", "/alice", "/recipes/", "/"]
LISTS += ["/api/v1/tasks/", "/api/v1/tasks/?public=true", "/api/v1/tasks/?owner=alice"]


@pytest.mark.parametrize("kind", ["private", "hidden"])
def test_no_list_names_it_to_strangers(
    kind: str, task: FewShotTask, people: dict[str, User | None]
) -> None:
    make(kind, task, people)
    for url in LISTS:
        for visitor in ("anonymous", "stranger"):
            client = Client()
            if user := people[visitor]:
                client.force_login(user)
            answer = client.get(url)
            assert answer.status_code == 200 and str(task.pk) not in answer.text, (url, visitor)

"""Every page that links lead to, by every kind of visitor: nothing inline, every policy there."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from django.test import Client
from django.urls import Resolver404, URLPattern, URLResolver, get_resolver, resolve

from composer import publishing, sharing
from composer.models import FewShotTask
from hub_site.accounts import tokens
from hub_site.accounts.models import User
from hub_site.accounts.notices import notify
from hub_site.headers import PERMISSIONS, POLICY, SANDBOX
from modules import services
from modules.community import collections, moderation
from modules.models import LoraModule, Repo
from modules.storage import local
from tests.composer import finished

HOSTILE = "\"'><script>alert(1)</script><p style=color:red onclick=x>[x](javascript:alert(1))"
# Pages that no link leads to, or not from a site of this size.
DOORS = [
    "/", "/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/search/?q=a",
    "/api/docs/", "/healthz", "/import/", "/upload/", "/tasks/new/", "/accounts/email/",
    "/accounts/password/change/", "/accounts/reauthenticate/", "/accounts/delete/", "/about/terms/",
    "/about/privacy/", "/about/takedown/", "/admin/", "/collections/new/", "/nothing/is/here/",
    "/accounts/logout/", "/alice/mine", "/alice/mine/settings", "/alice/mine/settings/access",
    "/alice/mine/upload",
]  # fmt: skip
A_ROUTE = 2  # pages of one kind that are looked at
# Kinds of pages that the crawl must have come to, or it has proved little.
PAGES = {
    *("home", "search", "terms", "api-docs", "account_login", "account_signup", "account_logout"),
    *("account_settings", "account_tokens", "account_token_revoke", "account_notices"),
    *("account_delete", "account_email", "account_reset_password", "account_change_password"),
    *("modules:list", "modules:tags", "modules:tag", "modules:collections", "modules:collection"),
    *("modules:collection_edit", "modules:collection_delete", "modules:profile", "modules:repo"),
    *("modules:commits", "modules:settings", "modules:upload", "modules:new_version"),
    *("modules:report", "modules:likes", "modules:import", "modules:access"),
    *("composer:tasks", "composer:task", "composer:task_new", "composer:task_edit"),
    *("composer:task_delete", "composer:task_compose", "composer:task_share", "composer:shared"),
    *("composer:job", "composer:job_publish", "composer:recipes", "composer:recipe"),
    *("admin:index", "admin:modules_repo_changelist", "admin:modules_report_changelist"),
    *("admin:jobs_job_change", "admin:accounts_user_change", "admin:composer_recipe_changelist"),
}


class Page(HTMLParser):
    """What of a page runs, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        acts = [name for name in given if name == "style" or name.startswith("on")]
        # Data for scripts is no script: no browser runs it.
        runs = tag == "script" and "src" not in given and given.get("type") != "application/json"
        where = [given[name] for name in ("href", "src", "action", "formaction") if name in given]
        odd = [w for w in where if w.strip().lower().startswith(("javascript:", "data:text"))]
        loads = tag in ("script", "link", "img", "iframe", "object", "embed")
        away = [w for w in where if loads and urlsplit(w).netloc]
        if acts or runs or odd or away or tag in ("style", "base"):
            self.inline.append(str(self.get_starttag_text()))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


@pytest.fixture
def site(
    lora_modules: list[LoraModule], task: FewShotTask, alice: User, bob: User, settings: Any
) -> list[str]:
    """Something of everything, with hostile words wherever an author may write some."""
    settings.HUB_ENDPOINT = "http://127.0.0.1:9"  # nobody answers there
    mine = services.create_repo(owner=alice.namespace, name="mine", kind=Repo.LORA)
    source = lora_modules[0]
    files = {f.path: f.blob for f in source.commit.files.select_related("blob")}
    services.publish_module(
        repo=mine,
        author=alice,
        title=HOSTILE[:60],
        additions={
            "adapter_config.json": _bytes(files["adapter_config.json"].sha256),
            "adapter_model.safetensors": _bytes(files["adapter_model.safetensors"].sha256),
            "README.md": io.BytesIO(f"---\ntags: [words]\n---\n# {HOSTILE}\n".encode()),
        },
    )
    Repo.objects.filter(pk=mine.pk).update(gated=Repo.MANUAL)
    module = LoraModule.objects.get(repo=mine)
    things = collections.create(owner=alice.namespace, title=HOSTILE[:60])
    collections.add(things, module)
    moderation.report(mine, user=bob, address="", reason="other", text=HOSTILE)
    sharing.share(task, user=alice)
    recipe_of = finished.finish(finished.start(task, alice))
    publishing.publish(search=recipe_of, user=alice, title="Opposites")
    other = finished.start(task, alice, seed=7)
    finished.finish(other)
    finished.end(finished.start(task, alice, seed=8), "failed", error_message=HOSTILE)
    finished.run(finished.start(task, alice, seed=9))
    tokens.create_token(alice, name=HOSTILE[:60], scope="read")
    notify(alice, HOSTILE, "/tasks/")
    moderation.prepare_group()
    return [f"{other.get_absolute_url()}publish/"]


def _bytes(sha256: str) -> Any:
    return io.BytesIO(local.local_path(sha256).read_bytes())


def routes(resolver: URLResolver, space: str = "") -> Iterator[str]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLPattern):
            yield f"{space}{pattern.name or pattern.pattern}"
        else:
            yield from routes(pattern, f"{pattern.namespace}:" if pattern.namespace else space)


def route_of(address: str) -> str:
    try:
        return resolve(urlsplit(address).path).view_name
    except Resolver404:
        return "nothing"


def crawl(client: Client, doors: list[str]) -> Iterator[tuple[str, Any]]:
    """Every address that a link leads to, a few of each kind, with its answer."""
    waiting, known, count = list(doors), set(doors), Counter[str]()
    while waiting:
        address = waiting.pop(0)
        count[route_of(address)] += 1
        if count[route_of(address)] > A_ROUTE:
            continue
        answer = client.get(address)
        yield address, answer
        found = [answer["Location"]] if "Location" in answer else []
        if not answer.streaming and "text/html" in answer.get("Content-Type", ""):
            found += Page(answer.text).links
        for link in found:
            whole = urlsplit(urljoin(f"http://testserver{address}", link))
            here = whole._replace(scheme="", netloc="", fragment="").geturl()
            if whole.netloc == "testserver" and here not in known:
                known.add(here)
                waiting.append(here)


def faults(address: str, answer: Any) -> list[str]:
    policy = answer.headers.get("Content-Security-Policy", "none")
    wanted = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": PERMISSIONS,
    }
    found = [name for name, value in wanted.items() if answer.headers.get(name) != value]
    if policy not in (POLICY, SANDBOX):
        found.append(f"Content-Security-Policy: {policy}")
    if not answer.streaming and "text/html" in answer.get("Content-Type", ""):
        found += Page(answer.text).inline
    return [f"{address}: {each}" for each in found]


@pytest.mark.slow
def test_no_page_has_anything_inline_and_every_answer_its_policies(
    alice: User, site: list[str]
) -> None:
    root = User.objects.create_superuser("root", password="x")
    seen, wrong = set(), []
    for user in (None, alice, root):
        client = Client()
        if user is not None:
            client.force_login(user)
        for address, answer in crawl(client, DOORS + site):
            # 503 says what is away: a worker, and the Hub.
            assert answer.status_code < 500 or answer.status_code == 503, address
            wrong += faults(address, answer)
            if answer.status_code == 200:
                seen.add(route_of(address))
    assert wrong == []
    assert PAGES - seen == set()
    assert set(routes(get_resolver())) >= PAGES  # a name that was changed is changed here too


@pytest.mark.parametrize(
    ("path", "more", "status"),
    [
        ("/", {"HTTP_HOST": "elsewhere.example"}, 400),
        ("/nothing/is/here/", {}, 404),
        ("/api/v1/nothing/", {}, 404),
        ("/api/models/nobody/nothing", {}, 404),
        ("/tasks/preview/", {}, 405),
    ],
)
def test_refusals_have_them_too(
    client: Client, db: None, path: str, more: dict[str, str], status: int
) -> None:
    answer = client.get(path, **more)
    assert answer.status_code == status and faults(path, answer) == []


def test_a_form_without_its_token_is_refused_with_them_too(db: None) -> None:
    answer = Client(enforce_csrf_checks=True).post("/accounts/login/", {"login": "ada"})
    assert answer.status_code == 403 and faults("csrf", answer) == []

"""Limits on how often: counted for all processes, and told so that one knows when to return."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core import signing
from django.db import connection
from django.db.models import F
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from composer.models import FewShotTask
from hub_site import throttles
from hub_site.accounts import tokens
from hub_site.accounts.models import User
from hub_site.env import Rate
from hub_site.jobs import queue, worker
from hub_site.models import Throttle
from hub_site.throttles import TooOften
from modules import services
from modules.hub_api import lfs, xet
from modules.models import BaseModel, Repo
from tests.workers import ROOT

pytestmark = pytest.mark.django_db
Limit = Callable[..., None]


@pytest.fixture
def limit(settings: Any) -> Limit:
    """Set a limit that a test can meet."""

    def to(action: str, amount: int, seconds: int = 3600) -> None:
        settings.THROTTLES = settings.THROTTLES | {action: Rate(amount, seconds)}

    return to


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="correct horse")


def asked(user: Any = None, address: str = "192.0.2.1") -> Any:
    request = RequestFactory().get("/", REMOTE_ADDR=address)
    request.user = user or AnonymousUser()
    return request


def used_up(action: str, *requests: Any) -> list[bool]:
    found = []
    for request in requests:
        try:
            throttles.count(request, action)
            found.append(False)
        except TooOften:
            found.append(True)
    return found


def later(seconds: float) -> None:
    """As if so much time had passed."""
    Throttle.objects.update(free_at=F("free_at") - timedelta(seconds=seconds))


# --- counting ----------------------------------------------------------------------------------


def test_so_many_go_through_at_once_and_then_one_each_time_a_part_has_passed(limit: Limit) -> None:
    limit("search", 3, 60)
    assert used_up("search", *[asked()] * 5) == [False] * 3 + [True] * 2
    later(21)
    assert used_up("search", *[asked()] * 2) == [False, True]
    later(60)
    assert used_up("search", *[asked()] * 4) == [False] * 3 + [True]


def test_it_says_when_to_come_back_and_then_it_lets_one_in(limit: Limit) -> None:
    limit("search", 2, 600)
    throttles.count(asked(), "search")
    throttles.count(asked(), "search")
    with pytest.raises(TooOften, match=r"2 in 10 min are the most\. Come back in 5 min") as told:
        throttles.count(asked(), "search")
    assert 295 <= told.value.wait <= 300
    later(told.value.wait - 10)
    assert used_up("search", asked()) == [True]
    later(10)
    assert used_up("search", asked()) == [False]


def test_whoever_is_refused_does_not_wait_longer_for_asking_again(limit: Limit) -> None:
    limit("search", 1, 60)
    throttles.count(asked(), "search")
    before = Throttle.objects.get().free_at
    assert used_up("search", *[asked()] * 20) == [True] * 20
    assert Throttle.objects.get().free_at == before


def test_accounts_count_for_themselves_and_everybody_else_by_address(
    limit: Limit, ada: User
) -> None:
    limit("search", 1)
    bob = User.objects.create_user("bob")
    guest, other = (User.objects.create(username=f"g{n}", is_guest=True) for n in range(2))
    assert used_up("search", asked(ada), asked(bob), asked()) == [False] * 3
    assert used_up("search", asked(ada, "192.0.2.2"), asked(bob)) == [True] * 2
    assert used_up("search", asked(guest), asked(other)) == [True] * 2  # as their address
    assert used_up("search", asked(guest, "192.0.2.2")) == [False]


def test_one_action_uses_up_nothing_of_another(limit: Limit) -> None:
    limit("search", 1)
    limit("submit", 1)
    assert used_up("search", asked(), asked()) == [False, True]
    assert used_up("submit", asked(), asked()) == [False, True]


def test_all_addresses_of_one_network_count_as_one(limit: Limit) -> None:
    limit("search", 1)
    near = [asked(address=f"2001:db8:1:2::{n:x}") for n in range(3)]
    assert used_up("search", *near) == [False, True, True]
    assert used_up("search", asked(address="2001:db8:1:3::1")) == [False]


def test_who_asked_cannot_be_told_from_a_row_without_the_sites_key(settings: Any) -> None:
    throttles.count(asked(), "search")
    settings.SECRET_KEY = "another site's"
    throttles.count(asked(), "search")
    first, second = (row.key for row in Throttle.objects.all())
    assert first != second and len(first) == len(second) == 64


def test_a_limit_can_be_turned_off(settings: Any) -> None:
    settings.THROTTLES = settings.THROTTLES | {"search": None}
    assert used_up("search", *[asked()] * 50) == [False] * 50
    assert not Throttle.objects.exists()


def test_what_is_paid_off_is_pruned_by_a_worker(limit: Limit) -> None:
    limit("search", 2, 60)
    throttles.count(asked(), "search")
    later(120)
    throttles.count(asked(address="192.0.2.9"), "search")
    submitted = queue.submit("prune_throttles", params={})
    job = queue.claim_next("test")
    assert job == submitted
    worker.run(job)
    job.refresh_from_db()
    assert (job.state, job.result) == ("done", {"deleted": 1})
    assert Throttle.objects.count() == 1


COUNTING = """
import os, sys, django
django.setup()
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory
from hub_site import throttles
from hub_site.env import Rate
from django.conf import settings
settings.THROTTLES["search"] = Rate(200, 86400)
request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.7")
request.user = AnonymousUser()
throttles.count(request, "upload")
print("ready", flush=True)
sys.stdin.readline()
through = 0
for _ in range(150):
    try:
        throttles.count(request, "search")
        through += 1
    except throttles.TooOften:
        pass
print(through, flush=True)
"""


@pytest.mark.django_db(transaction=True)
def test_several_processes_at_once_let_through_exactly_so_many() -> None:
    """Three ask 150 times each, of 200 that are allowed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTING],
            cwd=ROOT,
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.worker_settings"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [int(process.communicate()[0]) for process in processes]
    assert sum(counts) == 200 and min(counts) < 150


def test_a_plain_page_counts_nothing(client: Client) -> None:
    with CaptureQueriesContext(connection) as asked_for:
        for path in ("/", "/modules/", "/tags/", "/recipes/", "/search/", "/api/v1/modules/"):
            assert client.get(path).status_code == 200
    assert not [q for q in asked_for.captured_queries if "throttle" in q["sql"]]
    assert not Throttle.objects.exists()


def test_a_count_is_one_statement(limit: Limit) -> None:
    throttles.count(asked(), "search")
    with CaptureQueriesContext(connection) as asked_for:
        throttles.count(asked(), "search")
    assert len(asked_for) == 1


# --- where it counts ---------------------------------------------------------------------------


def sign_in(client: Client, **more: Any) -> Any:
    return client.post("/accounts/login/", {"login": "ada", "password": "wrong"}, **more)


def refuses(answer: Any) -> bool:
    """As a page that says when to come back."""
    words = "Come back in" in answer.text and "</html>" in answer.text
    return answer.status_code == 429 and words and int(answer["Retry-After"]) > 0


def test_signing_in_is_limited_by_address(client: Client, ada: User, limit: Limit) -> None:
    limit("sign_in", 2)
    assert [sign_in(client).status_code for _ in range(2)] == [200, 200]
    assert refuses(sign_in(client))
    assert client.get("/accounts/login/").status_code == 200
    assert sign_in(client, REMOTE_ADDR="192.0.2.5").status_code == 200


def test_allauths_own_limits_say_when_to_come_back_too(client: Client, settings: Any) -> None:
    settings.ACCOUNT_RATE_LIMITS = {"reset_password": "1/m/ip"}
    answers = [client.post("/accounts/password/reset/", {"email": "a@b.example"}) for _ in "ab"]
    assert refuses(answers[1])


def test_signing_up_is_limited_by_address(client: Client, limit: Limit) -> None:
    limit("sign_up", 1)
    given = {"username": "grace", "password1": "correct horse battery"}
    assert client.post("/accounts/signup/", given).status_code == 302
    assert refuses(Client().post("/accounts/signup/", given | {"username": "joan"}))
    assert User.objects.count() == 1


def test_making_tokens_is_limited_by_account(client: Client, ada: User, limit: Limit) -> None:
    limit("token", 1)
    client.force_login(ada)
    given = {"name": "laptop", "scope": "read"}
    assert client.post("/accounts/tokens/", given).status_code == 201
    assert refuses(client.post("/accounts/tokens/", given, REMOTE_ADDR="192.0.2.5"))
    assert ada.tokens.count() == 1


@pytest.mark.parametrize(
    "path",
    ["/search/?q=a", "/modules/?q=a", "/tags/?q=a", "/tags/suggest?q=a"],
)
def test_searching_and_typing_ahead_are_limited(client: Client, limit: Limit, path: str) -> None:
    limit("search", 1)
    assert client.get(path).status_code == 200
    assert refuses(client.get(path))


@pytest.mark.parametrize("path", ["/api/v1/modules/?q=a", "/api/v1/tags/?q=a"])
def test_programs_that_search_are_told_as_json(client: Client, limit: Limit, path: str) -> None:
    limit("search", 1)
    assert client.get(path).status_code == 200
    answer = client.get(path)
    assert answer.status_code == 429 and int(answer["Retry-After"]) > 0
    assert answer.json()["code"] == "too_often" and "Come back in" in answer.json()["message"]


def test_clients_of_the_hub_are_told_in_their_way(client: Client, limit: Limit) -> None:
    limit("search", 1)
    assert client.get("/api/models?search=a").status_code == 200
    answer = client.get("/api/models?search=a")
    assert answer.status_code == 429 and int(answer["Retry-After"]) > 0
    assert "Come back in" in answer["X-Error-Message"] and "searches" in answer.json()["error"]


UPLOADS = {
    "by form": ("/upload/", None, {"files": ""}),
    "by API": ("/api/v1/modules/", "token", {}),
    "by commit": ("/api/models/ada/m/commit/main", "token", {}),
    "a repo": ("/api/repos/create", "token", {}),
}


@pytest.mark.parametrize(("path", "auth", "data"), UPLOADS.values(), ids=UPLOADS)
def test_every_way_of_uploading_is_limited(
    client: Client, ada: User, limit: Limit, path: str, auth: str | None, data: dict[str, Any]
) -> None:
    limit("upload", 1)
    client.force_login(ada)
    _, plain = tokens.create_token(ada, name="t", scope="write")
    headers = {"Authorization": f"Bearer {plain}"} if auth else {}
    services.create_repo(owner=ada.namespace, name="m", kind=Repo.LORA)
    assert client.post(path, data, headers=headers).status_code != 429
    answer = client.post(path, data, headers=headers)
    assert answer.status_code == 429 and int(answer["Retry-After"]) > 3000
    assert "Too many uploads from your account" in answer.text


@pytest.mark.parametrize("way", ["batch", "put", "xorb", "shard"])
def test_bytes_of_large_files_are_limited(
    client: Client, ada: User, limit: Limit, way: str
) -> None:
    limit("transfer", 1)
    repo = services.create_repo(owner=ada.namespace, name="m", kind=Repo.LORA)
    _, plain = tokens.create_token(ada, name="t", scope="write")
    bearer = {"Authorization": f"Bearer {plain}"}
    by_xet = {"Authorization": f"Bearer {signing.dumps(ada.pk, salt=xet.SALT)}"}
    digest = "0" * 64

    def send() -> Any:
        if way == "batch":
            path = "/ada/m.git/info/lfs/objects/batch"
            return client.post(path, "{}", "application/json", headers=bearer)
        if way == "put":
            return client.put(f"/lfs/{lfs._ticket(ada, repo, digest, 3)}", b"abc")
        path = f"/xet/v1/xorbs/default/{digest}" if way == "xorb" else "/xet/v1/shards"
        return client.post(path, b"abc", "application/octet-stream", headers=by_xet)

    assert send().status_code != 429
    answer = send()
    assert answer.status_code == 429 and "files" in answer["X-Error-Message"]


def test_guests_are_limited_by_address_whatever_they_submit(client: Client, limit: Limit) -> None:
    limit("submit", 1)
    base = BaseModel.objects.create(name="lora-commons/tiny", source=BaseModel.SITE)
    task = FewShotTask.objects.create(demo_key="x", name="Opposites", base_model=base)
    answers = [Client().post(f"/try/{task.demo_key}/") for _ in range(2)]
    assert answers[0].status_code == 302  # to the task, which says why it cannot be composed
    assert refuses(answers[1])


def test_programs_that_submit_are_limited_by_account(
    client: Client, ada: User, limit: Limit
) -> None:
    limit("submit", 1)
    _, plain = tokens.create_token(ada, name="t", scope="write")
    bearer = {"Authorization": f"Bearer {plain}"}
    assert client.post("/api/v1/jobs/", {}, "application/json", headers=bearer).status_code == 422
    answer = client.post("/api/v1/jobs/", {}, "application/json", headers=bearer)
    assert answer.status_code == 429 and answer.json()["code"] == "too_often"
    assert client.get("/api/v1/jobs/", headers=bearer).status_code == 200


def test_importing_is_limited_by_account(client: Client, ada: User, limit: Limit) -> None:
    limit("submit", 1)
    client.force_login(ada)
    assert client.post("/import/", {}).status_code == 422
    assert refuses(client.post("/import/", {}))

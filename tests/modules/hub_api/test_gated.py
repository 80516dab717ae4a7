"""Gated repos, as the stock client meets them, and as somebody does who sends by hand."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from hub_site.accounts import tokens
from hub_site.accounts.models import Notice, User
from modules.hub_api import access
from modules.models import AccessRequest, Download, LoraModule, Repo
from modules.repos import gate
from tests.modules.conftest import Publisher, make_user, weights_bytes
from tests.modules.hub_api.conftest import Hub
from tests.modules.hub_api.test_probes import Program, by_hash

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def gated(opposites: LoraModule) -> Repo:
    gate.set_gate(opposites.repo, Repo.MANUAL)
    return opposites.repo


def token_of(user: User, scope: str = "write") -> str:
    return tokens.create_token(user, name="t", scope=scope)[1]


# --- with the stock client ---------------------------------------------------------------------


def test_an_owner_gates_and_opens_a_repo(hub: Hub, opposites: LoraModule) -> None:
    out = hub("""
anybody = HfApi(token=False)
def gates():
    return anybody.model_info("alice/opposites").gated, [m.gated for m in anybody.list_models()]
print(gates())
for wanted in ("auto", "manual", False):
    api.update_repo_settings("alice/opposites", gated=wanted)
    print(gates())
api.update_repo_settings("alice/opposites", gated="auto", private=True)
api.update_repo_settings("alice/opposites", private=False)
print(gates())
print(anybody.model_info("alice/opposites", expand=["gated"]).gated)
""").splitlines()
    assert out == [
        "(False, [False])", "('auto', ['auto'])", "('manual', ['manual'])", "(False, [False])",
        "('auto', ['auto'])", "auto",
    ]  # fmt: skip


def test_everybody_reads_about_a_gated_repo_and_nobody_its_files(
    hub: Hub, gated: Repo, bob: User
) -> None:
    """The card and the licence are open: the page shows them anyway."""
    out = hub(f"""
for api in (HfApi(token=False), HfApi(token={token_of(bob)!r})):
    info = api.model_info("alice/opposites", files_metadata=True)
    print(info.gated, len(info.siblings), info.card_data.license, info.sha == {gated.head().sha!r})
    print([f.path for f in api.list_repo_tree("alice/opposites")])
    print(len(api.list_repo_commits("alice/opposites")),
          [b.name for b in api.list_repo_refs("alice/opposites").branches],
          len(api.get_paths_info("alice/opposites", ["{WEIGHTS}"])))
    print("opposite" in Path(api.hf_hub_download("alice/opposites", "README.md")).read_text())
    for call in (
        lambda: api.hf_hub_download("alice/opposites", "{WEIGHTS}"),
        lambda: api.hf_hub_download("alice/opposites", "not/there"),
        lambda: api.hf_hub_download("alice/opposites", "{WEIGHTS}", revision="nowhere"),
        lambda: api.snapshot_download("alice/opposites"),
        lambda: api.auth_check("alice/opposites"),
        lambda: api.file_exists("alice/opposites", "{WEIGHTS}"),
    ):
        error = raises(GatedRepoError, call)
        print(error.response.status_code, "ask" in error.server_message.lower(),
              "/alice/opposites" in error.server_message)
""").splitlines()
    about = [
        "manual 3 apache-2.0 True",
        "['README.md', 'adapter_config.json', 'adapter_model.safetensors']",
        "1 ['main'] 1",
        "True",
    ]
    assert out == about + ["401 True True"] * 6 + about + ["403 True True"] * 6
    assert not Download.objects.exists()


def test_whoever_was_let_in_has_the_files(hub: Hub, gated: Repo, bob: User) -> None:
    gate.grant(gated, "Bob")
    out = hub(f"""
bob = HfApi(token={token_of(bob, "read")!r})
bob.auth_check("alice/opposites")
print(sorted(os.listdir(bob.snapshot_download("alice/opposites"))))
api.auth_check("alice/opposites")
print(sorted(os.listdir(api.snapshot_download("alice/opposites", cache_dir="other"))))
""").splitlines()
    files = "['README.md', 'adapter_config.json', 'adapter_model.safetensors']"
    assert out == [files, files]
    assert Download.objects.count() == 2


def test_a_request_is_made_accepted_turned_down_and_taken_back(
    hub: Hub, gated: Repo, bob: User
) -> None:
    """Asking has no method in the client: its pages post to this address."""
    out = hub(f"""
from urllib.request import Request, urlopen
bobs = {token_of(bob)!r}
def ask(**body):
    headers = {{"Authorization": f"Bearer {{bobs}}", "Content-Type": "application/json"}}
    page = urlopen(Request(f"{{api.endpoint}}/alice/opposites/ask-access",
                           json.dumps(body).encode(), headers))
    return page.status, page.url.removeprefix(api.endpoint)
def lists():
    return [[r.username for r in found("alice/opposites")] for found in (
        api.list_pending_access_requests, api.list_accepted_access_requests,
        api.list_rejected_access_requests)]
def has_access():
    try:
        HfApi(token=bobs).auth_check("alice/opposites")
        return "yes"
    except GatedRepoError as error:
        return error.server_message
print(lists())
print(ask(message="For a study of words."))
print(ask(), lists())
one, = api.list_pending_access_requests("alice/opposites")
print(one.status, one.fullname, one.email, one.fields, one.timestamp.tzinfo is not None)
print(has_access())
api.accept_access_request("alice/opposites", "bob")
print(lists(), has_access())
print(raises(HfHubHTTPError, lambda: api.accept_access_request("alice/opposites", "bob"))
      .response.status_code)
api.reject_access_request("alice/opposites", "bob", rejection_reason="No.")
print(lists(), has_access())
print(ask(), lists())
api.cancel_access_request("alice/opposites", "bob")
print(lists(), has_access())
api.reject_access_request("alice/opposites", "bob", rejection_reason=None)
api.accept_access_request("alice/opposites", "bob")
print(lists(), has_access())
""").splitlines()
    waits = "alice/opposites is gated. Your request for access waits for alice's answer"
    assert out == [
        "[[], [], []]",
        "(200, '/alice/opposites')",  # led to the page
        "(200, '/alice/opposites') [['bob'], [], []]",
        "pending bob None {'message': 'For a study of words.'} True",
        waits,
        "[[], ['bob'], []] yes",
        "404",
        "[[], [], ['bob']] alice/opposites is gated, and alice has not given you access. "
        "Reason: No.",
        "(200, '/alice/opposites') [[], [], ['bob']]",
        f"[['bob'], [], []] {waits}",
        "[[], ['bob'], []] yes",
    ]
    told = list(Notice.objects.filter(user=bob).order_by("pk").values_list("text", flat=True))
    assert told == [
        "alice has given you access to alice/opposites.",
        "alice has taken your access to alice/opposites away. Reason: No.",
        "alice has turned down your request for access to alice/opposites.",
    ]


def test_access_is_granted_unasked_and_requests_come_in_pages(
    hub: Hub, gated: Repo, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "PAGE", 2)
    for n in range(5):
        gate.ask(gated, make_user(f"asker-{n}"))
    out = hub("""
print(api.grant_access("alice/opposites", "bob"))
print([r.username for r in api.list_accepted_access_requests("alice/opposites")])
for who in ("bob", "alice", "nobody"):
    error = raises(HfHubHTTPError, lambda: api.grant_access("alice/opposites", who))
    print(error.response.status_code)
print([r.username for r in api.list_pending_access_requests("alice/opposites")])
api.grant_access("alice/opposites", "asker-1")
print([r.username for r in api.list_accepted_access_requests("alice/opposites")])
""").splitlines()
    assert out == [
        "{}", "['bob']", "400", "400", "404",
        "['asker-4', 'asker-3', 'asker-2', 'asker-1', 'asker-0']", "['bob', 'asker-1']",
    ]  # fmt: skip


def test_the_owners_routes_are_the_owners(
    hub: Hub, gated: Repo, secret: LoraModule, publish: Publisher, alice: User, bob: User
) -> None:
    publish(alice, "open", seed=3)
    gate.set_gate(secret.repo, Repo.MANUAL)
    out = hub(f"""
def tell(api, repo, who="bob"):
    return [raises(HfHubHTTPError, call).response.status_code for call in (
        lambda: list(api.list_pending_access_requests(repo)),
        lambda: api.accept_access_request(repo, who),
        lambda: api.reject_access_request(repo, who, rejection_reason=None),
        lambda: api.cancel_access_request(repo, who),
        lambda: api.grant_access(repo, who),
        lambda: api.update_repo_settings(repo, gated="auto"),
    )]
print(tell(HfApi(token=False), "alice/opposites"))
print(tell(HfApi(token={token_of(bob)!r}), "alice/opposites"))
print(tell(HfApi(token={token_of(alice, "read")!r}), "alice/opposites"))
print(tell(HfApi(token={token_of(bob)!r}), "alice/secret"))
print([raises(HfHubHTTPError, call).response.status_code for call in (
    lambda: list(api.list_rejected_access_requests("alice/open")),
    lambda: api.cancel_access_request("alice/open", "bob"),
    lambda: api.grant_access("alice/open", "bob"))])
print(raises(HfHubHTTPError, lambda: api.accept_access_request("alice/opposites", "nobody"))
      .response.status_code)
""").splitlines()
    refused = [str([status] * 6) for status in (401, 403, 403, 404)]
    assert out == [*refused, str([400] * 3), "404"]


def test_lists_narrow_by_the_gate(hub: Hub, gated: Repo, publish: Publisher, alice: User) -> None:
    for n in range(3):
        publish(alice, f"open-{n}", seed=n + 10)
    out = hub("""
for wanted in (None, True, False):
    print(sorted(m.id for m in api.list_models(gated=wanted)))
print([m.id for m in api.list_models(gated=True, search="opposites")])
print([m.id for m in api.list_models(gated=False, search="alice", filter="words", limit=1)][0][:10])
""").splitlines()
    rest = ["alice/open-0", "alice/open-1", "alice/open-2"]
    assert out[:4] == [str([*rest, "alice/opposites"]), "['alice/opposites']", str(rest),
                       "['alice/opposites']"]  # fmt: skip
    assert out[4] == "alice/open"


def test_the_documented_lines_do_what_they_say(
    hub: Hub, opposites: LoraModule, bob: User, token: str, live_server: Any
) -> None:
    gate.set_gate(opposites.repo, Repo.MANUAL)
    for user in (bob, make_user("carol")):
        gate.ask(opposites.repo, user)
    make_user("dave")
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "hub.md").read_text(), re.DOTALL)[1]
    for shown, here in (("http://127.0.0.1:8000", live_server.url), ("lc_…", token)):
        assert shown in code
        code = code.replace(shown, here)
    hub(code)
    found = opposites.repo.access_requests.order_by("pk")
    assert list(found.values_list("user__username", "state", "reason")) == [
        ("bob", "accepted", ""),
        ("carol", "rejected", "Only for research."),
        ("dave", "accepted", ""),
    ]


# --- by hand -----------------------------------------------------------------------------------


def test_a_hash_of_gated_bytes_is_no_capability(gated: Repo, bob: User) -> None:
    """Neither to name them in a commit, nor to learn that they are here; access gives no right
    to put them into a repo of one's own without having them."""
    Repo.objects.create(owner=bob.namespace, name="his", kind=Repo.LORA)
    data = weights_bytes(0)
    oid, program = hashlib.sha256(data).hexdigest(), Program(bob)
    assert gated.head().sha256_of(WEIGHTS) == oid
    for asked in ("without access", "with it"):
        if asked == "with it":
            gate.grant(gated, "bob")
        answer = program.commit("bob/his", by_hash(WEIGHTS, oid, size=len(data)))
        assert answer.status_code == 422 and "not known here" in answer.json()["error"]
        (found,) = program.batch("bob/his", (oid, len(data))).json()["objects"]
        assert "upload" in found["actions"]


@pytest.mark.parametrize("method", ["get", "head"])
@pytest.mark.parametrize("rest", [f"resolve/main/{WEIGHTS}", "download.zip"])
def test_bytes_are_refused_before_anything_is_said_of_them(
    gated: Repo, bob: User, method: str, rest: str
) -> None:
    address = f"/alice/opposites/{rest}"
    for who, status in ((None, 401), (bob, 403)):
        client = Client()
        if who:
            client.force_login(who)
        known = {"headers": {"If-None-Match": f'"{hashlib.sha256(weights_bytes(0)).hexdigest()}"'}}
        answer = getattr(client, method)(address, **known)
        assert (answer.status_code, answer["X-Error-Code"]) == (status, "GatedRepo")
        assert answer["Cache-Control"] == "no-store" and "ETag" not in answer
    gate.grant(gated, "bob")
    answer = getattr(client, method)(address)
    assert answer.status_code == 200
    assert answer["Cache-Control"] == "private, no-cache"


def test_an_open_files_answer_is_private_too(gated: Repo) -> None:
    """What is had with a cookie or a token today may be closed to others tomorrow."""
    for path, status in (("README.md", 200), ("LICENSE", 404), ("docs/README.md", 401)):
        answer = Client().get(f"/alice/opposites/resolve/main/{path}")
        assert answer.status_code == status, path
        assert answer["Cache-Control"] == ("private, no-cache" if status == 200 else "no-store")


def test_whether_one_may_write_is_another_question(gated: Repo, alice: User, bob: User) -> None:
    gate.grant(gated, "bob")
    check = "/api/models/alice/opposites/auth-check"
    for program, reads, writes in (
        (Program(None), 401, 401), (Program(bob), 200, 403),
        (Program(alice, "read"), 200, 403), (Program(alice), 200, 200),
    ):  # fmt: skip
        assert program.send("GET", check).status_code == reads
        assert program.send("GET", f"{check}/write").status_code == writes


def test_a_request_is_named_by_its_id_too(gated: Repo, alice: User, bob: User) -> None:
    """As the client since 2.4 may do."""
    answer = Program(bob).send("POST", "/alice/opposites/ask-access")
    assert answer.status_code == 303 and answer["Location"].endswith("/alice/opposites")
    lists = "/api/models/alice/opposites/user-access-request"
    (found,) = Program(alice).send("GET", f"{lists}/pending").json()
    assert "reviewedAt" not in found and "email" not in found["user"]
    body = {"requestId": found["requestId"], "status": "accepted"}
    assert Program(alice).send("POST", f"{lists}/handle", body).json() == {}
    (found,) = Program(alice).send("GET", f"{lists}/accepted").json()
    assert found["requestId"] == body["requestId"] and found["reviewedAt"].endswith("Z")


def test_moderators_read_what_they_must_judge(gated: Repo) -> None:
    moderator = make_user("mara")
    User.objects.filter(pk=moderator.pk).update(is_staff=True)
    client = Client()
    client.force_login(moderator)
    assert client.get(f"/alice/opposites/resolve/main/{WEIGHTS}").status_code == 200
    gate.set_gate(gated, Repo.MANUAL)
    Repo.objects.filter(pk=gated.pk).update(visibility=Repo.PRIVATE)
    assert client.get(f"/alice/opposites/resolve/main/{WEIGHTS}").status_code == 404


HANDLE, GRANT = "user-access-request/handle", "user-access-request/grant"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "settings", {"gated": True}, 400),
        ("PUT", "settings", {"gated": "sometimes"}, 400),
        ("PUT", "settings", {"gated": ["auto"]}, 400),
        ("GET", "user-access-request/reset", None, 404),
        ("GET", "user-access-request/pending?cursor=x", None, 400),
        ("GET", "user-access-request/pending?limit=0", None, 400),
        ("POST", "user-access-request/pending", {}, 405),
        ("GET", HANDLE, None, 405),
        ("POST", HANDLE, {"user": "bob"}, 400),
        ("POST", HANDLE, {"user": "bob", "status": "reset"}, 400),
        ("POST", HANDLE, {"status": "accepted"}, 400),
        ("POST", HANDLE, {"user": "bob", "requestId": "1", "status": "accepted"}, 400),
        ("POST", HANDLE, {"requestId": "no id", "status": "accepted"}, 400),
        ("POST", HANDLE, {"requestId": "f" * 24, "status": "accepted"}, 404),
        ("POST", HANDLE, {"user": "b\0b", "status": "accepted"}, 400),
        ("POST", HANDLE, {"user": ["bob"], "status": "accepted"}, 400),
        ("POST", HANDLE, {"user": "bob", "status": "rejected", "rejectionReason": "x" * 201}, 400),
        ("POST", GRANT, {}, 400),
        ("POST", GRANT, {"user": "a" * 5000}, 404),
        ("POST", GRANT, {"user": 7}, 400),
        ("POST", "user-access-request/cancel", {}, 404),
        ("GET", "user-access-request/cancel", None, 405),
    ],
)
def test_bad_requests_are_told_so_and_change_nothing(
    gated: Repo, alice: User, bob: User, method: str, path: str, body: Any, status: int
) -> None:
    gate.ask(gated, bob)
    answer = Program(alice).send(method, f"/api/models/alice/opposites/{path}", body)
    assert answer.status_code == status, answer.content
    assert answer.json()["error"] and answer["X-Error-Message"]
    gated.refresh_from_db()
    assert (gated.gated, gated.access_requests.get().state) == ("manual", "pending")


def test_asking_needs_a_token_that_may_write_and_a_repo_that_one_sees(
    gated: Repo, secret: LoraModule, publish: Publisher, alice: User, bob: User
) -> None:
    publish(alice, "open", seed=3)
    gate.set_gate(secret.repo, Repo.MANUAL)
    send = Program(bob).send
    assert send("POST", "/alice/secret/ask-access").status_code == 404
    assert send("POST", "/alice/open/ask-access").status_code == 400
    assert send("POST", "/alice/opposites/ask-access", {"message": "x" * 301}).status_code == 400
    assert send("POST", "/alice/opposites/ask-access", b"{").status_code == 400
    assert Program(alice).send("POST", "/alice/opposites/ask-access").status_code == 400
    assert Program(bob, "read").send("POST", "/alice/opposites/ask-access").status_code == 403
    stranger = Program(None)
    stranger.headers = {"Authorization": "Bearer lc_unknown"}
    assert stranger.send("POST", "/alice/opposites/ask-access").status_code == 401
    assert not AccessRequest.objects.exists()


def test_a_request_that_waits_is_taken_back_by_whoever_made_it(gated: Repo, bob: User) -> None:
    program, cancel = Program(bob), "/api/models/alice/opposites/user-access-request/cancel"
    program.send("POST", "/alice/opposites/ask-access")
    assert json.loads(program.send("POST", cancel).content) == {"ok": True}
    assert not AccessRequest.objects.exists()
    gate.decide(gate.ask(gated, bob), gate.REJECTED)
    assert program.send("POST", cancel).status_code == 404
    assert AccessRequest.objects.get().state == "rejected"

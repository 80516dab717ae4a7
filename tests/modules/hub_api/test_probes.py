"""What an attacker sends by hand, and what an unlucky client sends twice."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules.hub_api import lfs
from modules.models import Blob, CommitFile, Repo, UploadTicket
from modules.storage import local
from tests.modules.conftest import Publisher, make_user

pytestmark = pytest.mark.django_db
DATA = b"the bytes of a file, not very many of them"
OID = hashlib.sha256(DATA).hexdigest()


class Program:
    """One user's program, speaking the protocol without the client's own care."""

    def __init__(self, user: User | None, scope: str = "write") -> None:
        self.client = Client()
        plain = tokens.create_token(user, name="t", scope=scope)[1] if user else ""
        self.headers = {"Authorization": f"Bearer {plain}"} if user else {}

    def send(self, method: str, path: str, data: Any = None, **headers: str) -> Any:
        body = data if isinstance(data, bytes) else json.dumps(data or {}).encode()
        return self.client.generic(
            method, path, body, content_type="application/json", headers=self.headers | headers
        )

    def commit(self, repo: str, *changes: tuple[str, dict[str, Any]], **header: Any) -> Any:
        lines = [("header", {"summary": "x", **header}), *changes]
        data = b"".join(json.dumps({"key": k, "value": v}).encode() + b"\n" for k, v in lines)
        return self.send("POST", f"/api/models/{repo}/commit/main", data)

    def batch(self, repo: str, *objects: tuple[str, int], **more: Any) -> Any:
        wanted = [{"oid": oid, "size": size} for oid, size in objects]
        data = {"operation": "upload", "transfers": ["basic"], "objects": wanted} | more
        return self.send("POST", f"/{repo}.git/info/lfs/objects/batch", data)

    def ticket(self, repo: str, oid: str = OID, size: int = len(DATA)) -> str:
        (found,) = self.batch(repo, (oid, size)).json()["objects"]
        return "/lfs/" + found["actions"]["upload"]["href"].rpartition("/")[2]


def inline(path: str, data: bytes = DATA) -> tuple[str, dict[str, Any]]:
    content = base64.b64encode(data).decode()
    return "file", {"content": content, "path": path, "encoding": "base64"}


def by_hash(path: str, oid: str = OID, **more: Any) -> tuple[str, dict[str, Any]]:
    return "lfsFile", {"path": path, "algo": "sha256", "oid": oid, **more}


@pytest.fixture
def mine(alice: User) -> Repo:
    return Repo.objects.create(owner=alice.namespace, name="mine", kind=Repo.LORA)


@pytest.fixture
def alices(alice: User) -> Program:
    return Program(alice)


def test_a_hash_is_no_capability(mine: Repo, alices: Program, alice: User) -> None:
    bob = make_user("bob")
    Repo.objects.create(owner=bob.namespace, name="his", kind=Repo.LORA, visibility="private")
    bobs = Program(bob)
    assert bobs.commit("bob/his", inline("secret.txt")).status_code == 200
    stolen = alices.commit("alice/mine", by_hash("stolen.txt", size=len(DATA)))
    unknown = alices.commit("alice/mine", by_hash("stolen.txt", "0" * 64, size=len(DATA)))
    odd = alices.commit("alice/mine", by_hash("stolen.txt", size=1))
    assert stolen.status_code == unknown.status_code == odd.status_code == 422
    # Word for word as for bytes that nobody has, so that asking tells nothing.
    assert stolen.json()["error"].replace(OID[:12], "0" * 12) == unknown.json()["error"]
    (answer,) = alices.batch("alice/mine", (OID, len(DATA))).json()["objects"]
    assert "actions" in answer  # not "already there"
    assert not CommitFile.objects.filter(commit__repo=mine).exists()


def test_bytes_come_once_by_a_ticket(mine: Repo, alices: Program) -> None:
    ticket = alices.ticket("alice/mine")
    nobody = Program(None)
    assert nobody.send("POST", f"{ticket}/verify").status_code == 401
    assert alices.send("POST", f"{ticket}/verify").status_code == 404
    assert nobody.send("PUT", ticket, DATA).status_code == 200  # the address is the key
    assert alices.send("POST", f"{ticket}/verify").status_code == 200
    again = nobody.send("PUT", ticket, DATA)
    assert again.status_code == 403 and "used already" in again.json()["error"]
    assert alices.commit("alice/mine", by_hash("a.txt", size=len(DATA))).status_code == 200
    assert mine.head() is not None


@pytest.mark.parametrize(
    ("sent", "status"), [(DATA[:-1], 422), (DATA[:-1] + b"!", 422), (DATA + b"!", 413), (b"", 422)]
)
def test_other_bytes_than_announced_are_refused(
    mine: Repo, alices: Program, sent: bytes, status: int
) -> None:
    ticket = alices.ticket("alice/mine")
    assert alices.send("PUT", ticket, sent).status_code == status
    assert not Blob.objects.exists()
    assert [p for p in settings.BLOB_DIR.rglob("*") if p.is_file()] == []
    assert alices.send("PUT", ticket, DATA).status_code == 200  # the ticket is still good


def test_a_ticket_ends(mine: Repo, alices: Program) -> None:
    ticket = alices.ticket("alice/mine")
    UploadTicket.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert alices.send("PUT", ticket, DATA).status_code == 403
    assert alices.send("PUT", "/lfs/" + "x" * 43, DATA).status_code == 403


def test_parts_must_be_whole_and_all_there(
    mine: Repo, alices: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfs, "PART", 10)
    (answer,) = alices.batch(
        "alice/mine", (OID, len(DATA)), transfers=["basic", "multipart"]
    ).json()["objects"]
    header = answer["actions"]["upload"]["header"]
    assert sorted(header) == ["00001", "00002", "00003", "00004", "00005", "chunk_size"]
    ticket = "/lfs/" + answer["actions"]["upload"]["href"].rpartition("/")[2]
    done = {"oid": OID, "parts": [{"partNumber": n, "etag": "x"} for n in range(1, 6)]}
    assert alices.send("POST", ticket, done).status_code == 422
    assert alices.send("PUT", f"{ticket}/1", DATA[:9]).status_code == 422
    assert alices.send("PUT", f"{ticket}/1", DATA[:11]).status_code == 413
    assert alices.send("PUT", f"{ticket}/6", b"").status_code == 422
    for n in range(5):
        part = alices.send("PUT", f"{ticket}/{n + 1}", DATA[n * 10 : n * 10 + 10])
        assert part.status_code == 200 and part["ETag"]
    assert alices.send("POST", ticket, done | {"parts": []}).status_code == 422
    assert alices.send("POST", ticket, done).status_code == 200
    assert [p.name for p in settings.BLOB_DIR.rglob("*") if p.is_file()] == [OID]


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a//b", "a/../b", "", ".", "a\\b", "a\0b", ".git/x", "a/./b", "x" * 501],
)
def test_no_path_leaves_the_repo(mine: Repo, alices: Program, path: str) -> None:
    for change in (inline(path), by_hash(path), ("deletedFile", {"path": path})):
        assert 400 <= alices.commit("alice/mine", change).status_code < 500
    asked = {"files": [{"path": path, "size": 3, "sample": ""}]}
    told = alices.send("POST", "/api/models/alice/mine/preupload/main", asked)
    assert 400 <= told.status_code < 500
    assert mine.head() is None


def test_only_the_owner_with_a_token_of_write_scope_writes(
    mine: Repo, alice: User, alices: Program
) -> None:
    bobs, readers, nobodys = Program(make_user("bob")), Program(alice, "read"), Program(None)
    cookie = Program(None)
    cookie.client.force_login(alice)
    repo = "/api/models/alice/mine"
    requests = [
        ("POST", f"{repo}/commit/main", {}),
        ("POST", f"{repo}/preupload/main", {"files": []}),
        ("POST", f"{repo}/branch/x", {}),
        ("POST", f"{repo}/tag/main", {"tag": "x"}),
        ("DELETE", f"{repo}/branch/main", {}),
        ("PUT", f"{repo}/settings", {"private": True}),
        ("POST", "/alice/mine.git/info/lfs/objects/batch", {"operation": "upload"}),
        ("DELETE", "/api/repos/delete", {"organization": "alice", "name": "mine"}),
        ("POST", "/api/repos/move", {"fromRepo": "alice/mine", "toRepo": "alice/x"}),
        ("POST", "/api/repos/create", {"organization": "alice", "name": "new"}),
    ]
    for method, path, data in requests:
        assert bobs.send(method, path, data).status_code == 403, path
        assert readers.send(method, path, data).status_code == 403, path
        assert nobodys.send(method, path, data).status_code == 401, path
        assert cookie.send(method, path, data).status_code == 401, path
    Repo.objects.update(visibility=Repo.PRIVATE)
    for method, path, data in requests[:-1]:
        hidden = bobs.send(method, path, data)
        assert hidden.status_code == 404 and hidden["X-Error-Code"] == "RepoNotFound", path
    assert Repo.objects.get().name == "mine"


def test_a_repeated_commit_is_harmless(mine: Repo, alices: Program) -> None:
    first = alices.commit("alice/mine", inline("a"), parentCommit="").json()["commitOid"]
    again = alices.commit("alice/mine", inline("a")).json()["commitOid"]
    assert first == again and mine.commits.count() == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/models/gpt2", "RepoNotFound"),
        ("/api/models/gpt2/tree/main", "RepoNotFound"),
        ("/gpt2/resolve/main/config.json", "RepoNotFound"),
        ("/api/models/a/b", "RepoNotFound"),
        ("/api/models/a/b/resolve", None),
        ("/api/datasets/a/b", "RepoNotFound"),
        ("/api/spaces/a", "RepoNotFound"),
        ("/api/models/-odd-/!!!", "RepoNotFound"),
        ("/api/nothing/of/the/kind", None),
        ("/a/b/resolve/main/c", "RepoNotFound"),
    ],
)
def test_programs_never_meet_a_page(db: None, path: str, code: str | None) -> None:
    answer = Client().get(path)
    assert answer.status_code in (404, 501) and answer["Content-Type"].startswith(
        "application/json"
    )
    assert answer.get("X-Error-Code") == code and answer.json()["error"]


def test_addresses_in_answers_are_those_that_were_asked_for(
    mine: Repo, alices: Program, publish: Publisher, alice: User, settings: Any
) -> None:
    """Behind a proxy, or by another of its names: never localhost."""
    settings.ALLOWED_HOSTS = ["hub.example"]
    for n in range(2):
        publish(alice, f"module-{n}")
    asked, here = {"Host": "hub.example:8443"}, "http://hub.example:8443/"
    rows = alices.send("GET", "/api/models?limit=1", **asked)
    made = alices.send("POST", "/api/repos/create", {"name": "new"}, **asked).json()
    data = b"\n".join(json.dumps({"key": k, "value": v}).encode() for k, v in [inline("a")])
    done = alices.send("POST", "/api/models/alice/mine/commit/main", data, **asked).json()
    wanted = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1}]}
    batch = alices.send("POST", "/alice/new.git/info/lfs/objects/batch", wanted, **asked).json()
    token = alices.send("GET", "/api/models/alice/mine/xet-write-token/main", **asked).json()
    assert rows["Link"].startswith(f"<{here}api/models?")
    assert made["url"] == f"{here}alice/new" and token["casUrl"] == f"{here}xet"
    assert done["commitUrl"].startswith(f"{here}alice/mine/commit/")
    actions = batch["objects"][0]["actions"]
    assert [action["href"].startswith(f"{here}lfs/") for action in actions.values()] == [True, True]


def test_odd_requests_are_told_so(mine: Repo, alices: Program) -> None:
    repo = "/api/models/alice/mine"
    for method, path, data in [
        ("POST", "/api/repos/create", b"{"),
        ("POST", "/api/repos/create", b"[]"),
        ("POST", "/api/repos/create", {"name": 3}),
        ("POST", "/api/repos/create", {"name": "a\0b"}),
        ("POST", "/api/repos/create", {"name": ".."}),
        ("POST", "/api/repos/create", {"name": "ok", "visibility": "secret"}),
        ("POST", "/api/repos/create", {"name": "ok", "type": "dataset"}),
        ("POST", "/api/repos/move", {"fromRepo": "alice", "toRepo": "x"}),
        ("POST", "/api/repos/move", {"fromRepo": "alice/mine", "toRepo": "bob/mine"}),
        ("POST", f"{repo}/preupload/main", {"files": [{"path": "a"}]}),
        ("POST", f"{repo}/preupload/main", {"files": 3}),
        ("POST", f"{repo}/preupload/other", {"files": []}),
        ("POST", f"{repo}/branch/..", {}),
        ("POST", f"{repo}/branch/a..b", {}),
        ("POST", f"{repo}/branch/{'a' * 40}", {}),
        ("POST", f"{repo}/tag/main", {"tag": "a b"}),
        ("POST", f"{repo}/commit/main", b"\xff"),
        ("POST", f"{repo}/commit/main?create_pr=1", b""),
        ("PUT", f"{repo}/settings", {"visibility": 1}),
        ("POST", "/alice/mine.git/info/lfs/objects/batch", {"operation": "download"}),
        ("POST", "/alice/mine.git/info/lfs/objects/batch",
         {"operation": "upload", "objects": [{"oid": "x", "size": 1}]}),
        ("POST", "/alice/mine.git/info/lfs/objects/batch",
         {"operation": "upload", "objects": [{"oid": OID, "size": -1}]}),
        ("GET", f"{repo}/tree/main?limit=x", {}),
        ("GET", "/api/models?sort=odd", {}),
        ("GET", "/api/models?cursor=odd", {}),
        ("DELETE", "/api/whoami-v2", {}),
    ]:  # fmt: skip
        answer = alices.send(method, path, data)
        assert 400 <= answer.status_code < 500 or answer.status_code == 501, (path, data)
        assert answer.json()["error"] and answer["X-Error-Message"], (path, data)


@pytest.mark.parametrize("asked", ["", "&full=True&cardData=True", "&expand=siblings&expand=sha"])
def test_a_list_costs_the_same_for_two_rows_and_six(
    client: Client, alice: User, publish: Publisher, asked: str
) -> None:
    for n in range(6):
        publish(alice, f"module-{n}")
    costs = []
    for limit in (2, 6):
        with CaptureQueriesContext(connection) as queries:
            rows = client.get(f"/api/models?limit={limit}{asked}").json()
        assert len(rows) == limit and ("siblings" in rows[0]) == bool(asked)
        costs.append(len(queries))
    assert costs[0] == costs[1]


def test_private_files_are_read_by_their_owner_alone(
    alice: User, publish: Publisher, alices: Program
) -> None:
    publish(alice, "secret", private=True)
    bobs = Program(make_user("bob"))
    for path in ("", "/revision/main", "/tree/main", "/refs", "/commits/main", "/auth-check"):
        address = f"/api/models/alice/secret{path}"
        assert alices.send("GET", address).status_code == 200
        assert bobs.send("GET", address)["X-Error-Code"] == "RepoNotFound"
    blob = Blob.objects.first()
    assert blob is not None and local.local_path(blob.sha256).exists()

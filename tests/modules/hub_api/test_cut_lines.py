"""Connections that break in the middle: the client goes on where it was, and nothing is doubled."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from hub_site.accounts.models import User
from modules import services
from modules.hub_api import lfs
from modules.models import Repo
from modules.storage import local
from tests.line import Line, line_to
from tests.modules.hub_api.conftest import Hub
from tests.modules.hub_api.test_probes import inline

pytestmark = pytest.mark.django_db(transaction=True)
# Some versions go on by themselves; with others their user starts the same again.
UNTIL_DONE = """
def until_done(call):
    for _ in range(6):
        try:
            return call()
        except Exception as error:
            print("again:", type(error).__name__, file=sys.stderr)
    return call()
"""


@pytest.fixture
def line(live_server: Any) -> Iterator[Line]:
    with line_to(live_server.thread.port) as line:
        yield line


@pytest.fixture
def repo(alice: User) -> Repo:
    return services.create_repo(owner=alice.namespace, name="work", kind=Repo.LORA)


@pytest.mark.slow
def test_a_cut_download_goes_on_where_it_was(
    hub: Hub, line: Line, repo: Repo, alice: User, tmp_path: Any
) -> None:
    """Clients write ten megabytes at a time: what came of a chunk that was cut comes again."""
    data = os.urandom(25_000_000)
    services.commit(repo=repo, author=alice, title="x", additions={"large.gz": io.BytesIO(data)})
    (tmp_path / "expected").write_bytes(data)
    for after in (15_000_000, 12_000_000, 2_000_000):
        line.cut_answers("GET", "/resolve/.*large.gz", after)
    out = hub(
        UNTIL_DONE
        + f"""
path = until_done(lambda: hf_hub_download("alice/work", "large.gz"))
print(Path(path).read_bytes() == Path({str(tmp_path / "expected")!r}).read_bytes())
""",
        HF_ENDPOINT=line.url,
    )
    assert out.split() == ["True"]
    chunk = 10 * 1024 * 1024
    ranges = [asked for method, path, asked in line.asked if method == "GET" and "resolve" in path]
    assert ranges == ["", f"bytes={chunk}-", f"bytes={2 * chunk}-", f"bytes={2 * chunk}-"]


def test_a_change_whose_answer_was_lost_is_made_once(hub: Hub, line: Line, repo: Repo) -> None:
    """The client sends it again, against a parent that is no longer the newest."""
    lost = [line.cut_answers("POST", "/commit/", 0) for _ in range(3)]
    out = hub(
        UNTIL_DONE
        + """
def commit(title, parent, *operations):
    return api.create_commit("alice/work", operations, commit_message=title, parent_commit=parent)
add = lambda path: CommitOperationAdd(path, path.encode())
first = until_done(lambda: commit("one", None, add("a/1"), add("a/2"), add("b"))).oid
second = until_done(lambda: commit("two", first, add("c"), CommitOperationDelete("a/"),
                                   CommitOperationDelete("b"))).oid
third = until_done(lambda: commit("three", None, add("d"), CommitOperationDelete("c"))).oid
print([c.commit_id for c in api.list_repo_commits("alice/work")] == [third, second, first])
print(api.list_repo_files("alice/work"))
print(raises(HfHubHTTPError, lambda: commit("two", first, add("e"))).response.status_code)
""",
        HF_ENDPOINT=line.url,
    )
    assert out.splitlines() == ["True", "['d']", "412"]
    assert all(rule.reached.is_set() for rule in lost)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "path"),
    [("whole", "/lfs/"), ("parts", "/lfs/.*/2"), ("xet", "/xorbs/"), ("xet", "/shards")],
)
def test_bytes_whose_answer_was_lost_come_again(
    hub: Hub, line: Line, repo: Repo, monkeypatch: pytest.MonkeyPatch, way: str, path: str
) -> None:
    monkeypatch.setattr("modules.hub_api.write.INLINE_LIMIT", 0)
    monkeypatch.setattr(lfs, "PART", 100_000 if way == "parts" else 1 << 26)
    line.cut_answers("POST" if way == "xet" else "PUT", path, 0)
    out = hub(
        UNTIL_DONE
        + f"""
import io
data = os.urandom(250_000)
Path("new").write_bytes(data)
new = lambda: "new" if {way!r} == "xet" else io.BytesIO(data)
until_done(lambda: api.upload_file(
    repo_id="alice/work", path_or_fileobj=new(), path_in_repo="large.gz"))
print(Path(hf_hub_download("alice/work", "large.gz")).read_bytes() == data)
""",
        HF_ENDPOINT=line.url,
    )
    assert out.split() == ["True"]
    head = repo.head()
    assert head is not None and local.local_path(head.files.get().blob_id).exists()


def test_a_change_that_breaks_off_between_two_files_is_none(
    live_server: Any, repo: Repo, token: str
) -> None:
    lines = [("header", {"summary": "x"}), inline("a"), inline("b")]
    data = b"".join(json.dumps({"key": k, "value": v}).encode() + b"\n" for k, v in lines)
    head = (
        f"POST /api/models/alice/work/commit/main HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((live_server.thread.host, live_server.thread.port)) as line:
        line.sendall(head.encode() + data[: data.index(b"\n", data.index(b'"a"')) + 1])
        line.shutdown(socket.SHUT_WR)
        answer = line.makefile("rb").read()
    assert b" 400 " in answer.splitlines()[0] and b"the connection broke" in answer
    assert repo.head() is None

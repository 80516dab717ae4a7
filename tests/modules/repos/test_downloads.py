import io
import zipfile
from typing import Any

import pytest
from django.test import Client

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules import services
from modules.models import LoraModule, Ref, Repo
from modules.storage import local
from tests.modules.conftest import weights_bytes

DATA = weights_bytes(0)
FILE = "/alice/opposites/resolve/main/adapter_model.safetensors"


def body(answer: Any) -> bytes:
    return answer.getvalue()


def downloads(module: LoraModule) -> int:
    return Repo.objects.get(pk=module.repo_id).downloads


def test_it_serves_a_file(client: Client, opposites: LoraModule) -> None:
    answer = client.get(FILE)
    assert answer.status_code == 200
    assert body(answer) == DATA
    assert answer["ETag"] == answer["X-Linked-ETag"] == f'"{opposites.weights_sha256}"'
    assert answer["Content-Length"] == answer["X-Linked-Size"] == str(len(DATA))
    assert answer["X-Repo-Commit"] == opposites.commit.sha
    assert answer["Content-Type"] == "application/octet-stream"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Security-Policy"].startswith("sandbox")


def test_the_head_is_the_same_without_the_bytes(client: Client, opposites: LoraModule) -> None:
    whole, head = client.get(FILE), client.head(FILE)
    assert body(head) == b""
    for name in ("Content-Length", "ETag", "X-Repo-Commit", "X-Linked-Size", "Accept-Ranges"):
        assert head[name] == whole[name]


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        ("bytes=0-999999999", 0, None),
        ("bytes=0-0", 0, 1),
    ],
)
def test_it_serves_a_range(
    client: Client, opposites: LoraModule, header: str, start: int, end: int | None
) -> None:
    answer = client.get(FILE, headers={"Range": header})
    assert answer.status_code == 206
    assert body(answer) == DATA[start:end]
    first, last = answer["Content-Range"].removeprefix("bytes ").split("/")[0].split("-")
    assert DATA[int(first) : int(last) + 1] == DATA[start:end]
    assert answer["Content-Length"] == str(len(DATA[start:end]))


@pytest.mark.parametrize("header", ["bytes=999999-", "bytes=-0", "bytes=9-5"])
def test_it_refuses_a_range_that_is_not_there(
    client: Client, opposites: LoraModule, header: str
) -> None:
    answer = client.get(FILE, headers={"Range": header})
    assert answer.status_code == 416
    assert answer["Content-Range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize(
    "header",
    ["bytes=0-1,3-4", "lines=1-2", "bytes=x", "bytes=-", f"bytes={'9' * 5_000}-", "bytes=٣-"],
)
def test_it_answers_strange_ranges_with_everything(
    client: Client, opposites: LoraModule, header: str
) -> None:
    answer = client.get(FILE, headers={"Range": header})
    assert answer.status_code == 200 and body(answer) == DATA


def test_a_broken_download_goes_on_only_with_the_same_bytes(
    client: Client, opposites: LoraModule
) -> None:
    etag = client.head(FILE)["ETag"]
    same = client.get(FILE, headers={"Range": "bytes=10-", "If-Range": etag})
    assert same.status_code == 206
    other = client.get(FILE, headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert other.status_code == 200 and body(other) == DATA


def test_what_one_has_is_not_sent_again(client: Client, opposites: LoraModule) -> None:
    etag = client.head(FILE)["ETag"]
    answer = client.get(FILE, headers={"If-None-Match": etag})
    assert answer.status_code == 304 and answer["ETag"] == etag
    assert downloads(opposites) == 0


def test_no_tag_takes_a_pinned_versions_place(
    client: Client, alice: User, opposites: LoraModule
) -> None:
    pinned = opposites.commit.sha
    later = services.commit(
        repo=opposites.repo, author=alice, title="x", additions={"README.md": io.BytesIO(b"new")}
    )
    Ref.objects.create(repo=opposites.repo, kind=Ref.TAG, name=pinned, commit=later)
    answer = client.get(f"/alice/opposites/resolve/{pinned}/README.md")
    assert answer["X-Repo-Commit"] == pinned


def test_an_empty_file_is_served(client: Client, alice: User, opposites: LoraModule) -> None:
    services.commit(
        repo=opposites.repo, author=alice, title="x", additions={"empty.txt": io.BytesIO()}
    )
    for header in ({}, {"Range": "bytes=0-"}):
        answer = client.get("/alice/opposites/resolve/main/empty.txt", headers=header)
        assert answer.status_code == 200 and body(answer) == b""
        assert answer["X-Linked-Size"] == "0"


def test_it_counts_whole_downloads_of_the_weights(client: Client, opposites: LoraModule) -> None:
    client.head(FILE)
    client.get(FILE, headers={"Range": "bytes=10-"})
    client.get("/alice/opposites/resolve/main/README.md")
    client.head("/alice/opposites/download.zip")
    assert downloads(opposites) == 0
    body(client.get(FILE))
    body(client.get("/alice/opposites/download.zip"))
    assert downloads(opposites) == 1  # one visitor, one version, one day


@pytest.mark.parametrize(
    ("path", "kind", "disposition"),
    [
        ("README.md", "text/plain; charset=utf-8", 'inline; filename="README.md"'),
        ("page.html", "application/octet-stream", 'attachment; filename="page.html"'),
        ("picture.svg", "application/octet-stream", 'attachment; filename="picture.svg"'),
    ],
)
def test_no_file_can_act_as_a_page_of_ours(
    client: Client, alice: User, opposites: LoraModule, path: str, kind: str, disposition: str
) -> None:
    files = {"page.html": io.BytesIO(b"<script>"), "picture.svg": io.BytesIO(b"<svg>")}
    services.commit(repo=opposites.repo, author=alice, title="x", additions=files)
    answer = client.get(f"/alice/opposites/resolve/main/{path}")
    assert answer["Content-Type"] == kind
    assert answer["Content-Disposition"] == disposition
    assert answer["Content-Security-Policy"] == "sandbox; default-src 'none'"


def test_a_branch_with_a_slash_is_found(client: Client, opposites: LoraModule) -> None:
    longest = "a/" * 59 + "bc"
    for name in ("feat/x", "feat", longest, longest[:-1]):
        Ref.objects.create(repo=opposites.repo, kind=Ref.BRANCH, name=name, commit=opposites.commit)
    for revision in ("feat/x", "feat%2Fx", "feat", opposites.commit.sha, longest, longest[:-1]):
        answer = client.get(f"/alice/opposites/resolve/{revision}/README.md")
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/alice/nothing/resolve/main/README.md", "RepoNotFound"),
        ("/nobody/opposites/download.zip", "RepoNotFound"),
        ("/alice/opposites/resolve/v9/README.md", "RevisionNotFound"),
        ("/alice/opposites/download.zip?revision=v9", "RevisionNotFound"),
        ("/alice/opposites/download.zip?revision=%00", "RevisionNotFound"),
        ("/alice/opposites/resolve/main/gone.md", "EntryNotFound"),
        ("/alice/opposites/resolve/main/", "EntryNotFound"),
        ("/alice/opposites/resolve/main", "EntryNotFound"),
        ("/alice/opposites/resolve/main/../../etc/passwd", "EntryNotFound"),
        ("/alice/opposites/resolve/main/a%00b", "EntryNotFound"),
    ],
)
def test_it_says_in_the_hubs_words_what_is_missing(
    client: Client, opposites: LoraModule, url: str, code: str
) -> None:
    answer = client.get(url)
    assert answer.status_code == 404
    assert answer["X-Error-Code"] == code
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["resolve/main/adapter_config.json", "download.zip"])
def test_private_files_are_for_their_owner(
    client: Client, alice: User, bob: User, secret: LoraModule, path: str
) -> None:
    url = f"/alice/secret/{path}"
    missing = client.get(f"/alice/missing/{path}")

    def seen(**headers: str) -> int:
        answer = client.get(url, headers=headers)
        if answer.status_code == 404:
            assert answer.json()["error"].replace("secret", "missing") == missing.json()["error"]
        return answer.status_code

    own = tokens.create_token(alice, name="mine", scope="read")[1]
    other = tokens.create_token(bob, name="other", scope="write")[1]
    assert seen() == 404
    assert seen(Authorization=f"Bearer {other}") == 404
    assert seen(Authorization=f"Bearer {own}") == 200
    assert seen(Authorization="Bearer lc_wrong") == 401
    client.force_login(bob)
    assert seen() == 404
    client.force_login(alice)
    assert seen() == 200
    assert client.get(url)["Cache-Control"].startswith("private")


@pytest.mark.parametrize("url", [FILE, "/alice/opposites/download.zip"])
def test_downloads_only_answer_questions(client: Client, opposites: LoraModule, url: str) -> None:
    assert client.post(url).status_code == 405
    assert client.delete(url).status_code == 405


def test_the_zip_holds_a_versions_files(client: Client, alice: User, opposites: LoraModule) -> None:
    old = opposites.commit.sha
    services.commit(
        repo=opposites.repo, author=alice, title="x", additions={"deep/new.md": io.BytesIO(b"new")}
    )
    answer = client.get("/alice/opposites/download.zip")
    assert answer["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(body(answer))) as archive:
        assert archive.testzip() is None
        assert archive.read("deep/new.md") == b"new"
        assert archive.read("adapter_model.safetensors") == DATA
    older = client.get("/alice/opposites/download.zip", {"revision": old})
    data = body(older)
    assert len(zipfile.ZipFile(io.BytesIO(data)).namelist()) == 3
    assert body(client.get("/alice/opposites/download.zip", {"revision": old})) == data


def test_bytes_that_the_store_lost_are_our_fault(client: Client, opposites: LoraModule) -> None:
    local.delete(opposites.weights_sha256)
    answer = client.get(FILE)
    assert answer.status_code == 500 and "store" in answer.json()["error"]


@pytest.mark.parametrize(
    ("header", "extent"), [("", "whole"), ("bytes=3-8", "part"), ("bytes=0-1,3-4", "whole")]
)
def test_a_proxy_may_send_the_bytes(
    client: Client, opposites: LoraModule, settings: Any, header: str, extent: str
) -> None:
    """Which nginx then does: tests/modules/repos/test_nginx_sends.py."""
    settings.ACCEL_REDIRECT = "/_blobs/"
    answer = client.get(FILE, headers={"Range": header} if header else {})
    sha256 = opposites.weights_sha256
    place = f"/_blobs/{extent}/{sha256[:2]}/{sha256[2:4]}/{sha256}"
    assert (answer.status_code, answer["X-Accel-Redirect"]) == (200, place)
    assert body(answer) == b""
    assert answer["ETag"] == f'"{sha256}"'
    assert "Content-Range" not in answer
    assert downloads(opposites) == (0 if header == "bytes=3-8" else 1)


def test_it_hears_only_of_files_that_one_may_have(
    client: Client, secret: LoraModule, settings: Any
) -> None:
    settings.ACCEL_REDIRECT = "/_blobs/"
    url = "/alice/secret/resolve/main/adapter_model.safetensors"
    for answer in (client.get(url), client.head(FILE), client.get(FILE + ".not")):
        assert "X-Accel-Redirect" not in answer

"""Xorbs and shards by hand: what a shard may reach, and what it may unfold to."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from typing import Any

import lz4.frame
import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from modules.hub_api import xet
from modules.models import Blob, Grant, Repo
from modules.storage import pruning
from tests.modules.conftest import make_user
from tests.modules.hub_api.test_probes import Program

pytestmark = pytest.mark.django_db
XORB = "a" * 64


def packed(data: bytes, scheme: int = 0, size: int | None = None, version: int = 0) -> bytes:
    inside = data if scheme == 0 else lz4.frame.compress(data)
    head = bytes([version]) + len(inside).to_bytes(3, "little") + bytes([scheme])
    return head + (len(data) if size is None else size).to_bytes(3, "little") + inside


def shard(*files: tuple[list[tuple[str, int, int, int]], str], tag: bytes = xet.TAG) -> bytes:
    """Each file as its terms (xorb, size, start, end), and the sha256 that it announces."""
    data = xet.HEADER.pack(tag, 2, 0)
    for terms, sha256 in files:
        flags = xet.HAS_METADATA if sha256 else 0
        data += xet.ENTRY.pack(bytes(32), flags, len(terms), 0, 0)
        for name, size, start, end in terms:
            data += xet.ENTRY.pack(binary(name), 0, size, start, end)
        if sha256:
            data += xet.ENTRY.pack(binary(sha256), 0, 0, 0, 0)
    return data + xet.ENTRY.pack(xet.END, 0, 0, 0, 0)


def binary(digest: str) -> bytes:
    return struct.pack("<4Q", *(int(digest[n : n + 16], 16) for n in range(0, 64, 16)))


class Sender(Program):
    def __init__(self, user: User, repo: str) -> None:
        super().__init__(user)
        found = self.send("GET", f"/api/models/{repo}/xet-write-token/main")
        assert found.status_code == 200, found.content
        self.headers = {"Authorization": f"Bearer {found.json()['accessToken']}"}

    def xorb(self, data: bytes, name: str = XORB) -> Any:
        return self.send("POST", f"/xet/v1/xorbs/default/{name}", data)

    def shard(self, data: bytes) -> Any:
        return self.send("POST", "/xet/v1/shards", data)


@pytest.fixture
def sender(alice: User) -> Sender:
    Repo.objects.create(owner=alice.namespace, name="mine", kind=Repo.LORA)
    return Sender(alice, "alice/mine")


def test_a_file_is_put_together_from_pieces(sender: Sender, alice: User) -> None:
    sender.xorb(packed(b"one ") + packed(b"two ", 1) + packed(b"three"))
    data = b"two threeone "
    sha256 = hashlib.sha256(data).hexdigest()
    done = sender.shard(shard(([(XORB, 9, 1, 3), (XORB, 4, 0, 1)], sha256)))
    assert done.status_code == 200 and done.json() == {"result": 1}
    assert Blob.objects.get().sha256 == sha256 and Grant.objects.get().user == alice
    assert sender.shard(shard(([(XORB, 9, 1, 3), (XORB, 4, 0, 1)], sha256))).status_code == 200


def test_another_users_xorbs_are_not_there(sender: Sender) -> None:
    bob = make_user("bob")
    Repo.objects.create(owner=bob.namespace, name="his", kind=Repo.LORA)
    assert Sender(bob, "bob/his").xorb(packed(b"secret")).status_code == 200
    stolen = sender.shard(shard(([(XORB, 6, 0, 1)], "")))
    assert stolen.status_code == 400 and "no longer has the bytes" in stolen.json()["error"]
    assert not Blob.objects.exists()


@pytest.mark.parametrize(
    ("xorb", "terms", "why"),
    [
        (packed(b"abc"), [(XORB, 3, 0, 2)], "fewer chunks"),
        (packed(b"abc"), [(XORB, 4, 0, 1)], "shorter than its shard"),
        (packed(b"abc"), [(XORB, 2, 0, 1)], "longer than its shard"),
        (packed(b"abc"), [(XORB, 0, 1, 1)], "larger than its chunks"),
        (packed(b"abc"), [(XORB, 1 << 31, 0, 1)], "larger than its chunks"),
        (packed(b"abc"), [(XORB, 3, 0, 1 << 31)], "larger than its chunks"),
        (packed(b"abc", size=4), [(XORB, 4, 0, 1)], "does not have the length"),
        (packed(b"abc", version=1), [(XORB, 3, 0, 1)], "head cannot be read"),
        (packed(b"abc", 3), [(XORB, 3, 0, 1)], "unknown way 3"),
        (packed(b"abc", 1, size=2), [(XORB, 3, 0, 1)], "shorter than its shard"),
        (packed(bytes(1_000_000), 1, size=131_072)[:-9], [(XORB, 131_073, 0, 1)], "larger"),
        (packed(b"abc", 1)[:-6], [(XORB, 3, 0, 1)], "does not have the length"),
        (b"\0\x14\0\0\x01\x03\0\0" + b"x" * 20, [(XORB, 3, 0, 1)], "cannot be unpacked"),
    ],
)
def test_what_does_not_fit_is_refused(
    sender: Sender, xorb: bytes, terms: list[tuple[str, int, int, int]], why: str
) -> None:
    assert sender.xorb(xorb).status_code == 200
    answer = sender.shard(shard((terms, "")))
    assert answer.status_code == 400 and why in answer.json()["error"], answer.json()
    assert not Blob.objects.exists() and not list(settings.BLOB_DIR.glob("??/??/*"))


def test_the_announced_hash_must_be_that_of_the_bytes(sender: Sender) -> None:
    sender.xorb(packed(b"abc"))
    assert sender.shard(shard(([(XORB, 3, 0, 1)], "0" * 64))).status_code == 422
    assert not Blob.objects.exists()


def test_a_small_shard_cannot_unfold_to_a_great_deal(sender: Sender, settings: Any) -> None:
    """One chunk named ten thousand times: refused before anything is unfolded."""
    settings.MAX_FILE_BYTES, settings.MAX_MODULE_BYTES = 2_000_000, 3_000_000
    sender.xorb(packed(bytes(xet.CHUNK_LIMIT), 1))
    term = (XORB, xet.CHUNK_LIMIT, 0, 1)
    assert sender.shard(shard(([term] * 10_000, ""))).status_code == 413
    assert sender.shard(shard(*[([term] * 10, "")] * 5)).status_code == 413
    assert sender.shard(shard(*[([term], "")] * 1_001)).status_code == 400
    assert sender.shard(shard(([term] * 10, ""))).status_code == 200


def test_xorbs_have_limits(sender: Sender, settings: Any) -> None:
    settings.USER_BYTES_A_DAY = 100
    assert sender.xorb(packed(bytes(60))).status_code == 200
    assert sender.xorb(packed(bytes(60)), "b" * 64).status_code == 413
    assert sender.xorb(packed(bytes(60))).json() == {"was_inserted": False}
    assert sender.xorb(b"x", "../../../etc/passwd").status_code == 404
    assert sender.xorb(b"x", "A" * 64).status_code == 400


def test_only_the_tokens_owner_sends(sender: Sender, alice: User) -> None:
    plain = Program(alice)
    assert plain.send("POST", "/xet/v1/shards", shard()).status_code == 401
    assert plain.send("POST", f"/xet/v1/xorbs/default/{XORB}", b"x").status_code == 401
    reader = Program(alice, "read")
    assert reader.send("GET", "/api/models/alice/mine/xet-write-token/main").status_code == 403
    other = Program(make_user("bob"))
    assert other.send("GET", "/api/models/alice/mine/xet-write-token/main").status_code == 403
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert sender.xorb(packed(b"abc")).status_code == 401


def test_old_xorbs_are_cleared_away(sender: Sender) -> None:
    sender.xorb(packed(b"old"))
    sender.xorb(packed(b"new"), "b" * 64)
    old = settings.BLOB_DIR / "xorbs" / str(User.objects.get(username="alice").pk) / XORB
    days = time.time() - 32 * 86_400
    os.utime(old, (days, days))
    pruning.prune()
    assert [path.name for path in old.parent.iterdir()] == ["b" * 64]


@given(data=st.binary(max_size=400), whole=st.booleans())
def test_no_bytes_break_the_reader(data: bytes, whole: bool) -> None:
    text = xet.HEADER.pack(xet.TAG, 2, 0) + data if whole else data
    try:
        files = xet.read_shard(text)
    except CommonsError:
        return
    assert all(file.size >= 0 for file in files)


@given(data=st.binary(max_size=100))
def test_bytes_grouped_by_four_come_back(data: bytes) -> None:
    grouped = b"".join(data[place::4] for place in range(4))
    assert xet._regrouped(grouped) == data

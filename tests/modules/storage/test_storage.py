import errno
import hashlib
import io
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from hub_site.accounts.models import User
from modules.checks import checking
from modules.models import LoraModule
from modules.storage import local

DATA = b"some bytes " * 50_000


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_it_keeps_bytes_under_their_hash(settings: Any) -> None:
    stored = local.put(io.BytesIO(DATA))
    assert stored.sha256 == hashlib.sha256(DATA).hexdigest()
    assert stored.size == len(DATA)
    assert stored.git_sha1 == hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()
    assert local.local_path(stored.sha256).read_bytes() == DATA
    assert kept(settings.BLOB_DIR) == [local.local_path(stored.sha256)]


def test_it_keeps_the_same_bytes_once(settings: Any) -> None:
    assert local.put(io.BytesIO(DATA)) == local.put(io.BytesIO(DATA))
    assert len(kept(settings.BLOB_DIR)) == 1


def test_it_refuses_bytes_with_another_hash_and_keeps_nothing(settings: Any) -> None:
    with pytest.raises(local.WrongBytes, match="announced"):
        local.put(io.BytesIO(DATA), expected_sha256="0" * 64)
    assert kept(settings.BLOB_DIR) == []


def test_it_refuses_what_is_too_long_without_reading_it_all(settings: Any) -> None:
    stream = io.BytesIO(DATA * 20)
    with pytest.raises(local.FileTooLarge, match="1,000 bytes"):
        local.put(stream, limit=1_000)
    assert stream.tell() <= local.CHUNK
    assert kept(settings.BLOB_DIR) == []


def test_it_takes_a_file_of_exactly_the_limit() -> None:
    assert local.put(io.BytesIO(b"x" * 1_000), limit=1_000).size == 1_000


def test_it_leaves_nothing_of_an_upload_that_breaks_off(settings: Any) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError("gone")
            return super().read(10)

    with pytest.raises(ConnectionResetError):
        local.put(Broken(DATA))
    assert kept(settings.BLOB_DIR) == []


def test_it_says_clearly_that_the_disk_is_full(settings: Any) -> None:
    """A read that fails with the disk's own error number takes the same way as a write."""

    class Full(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(local.StoreFull, match="disk is full"):
        local.put(Full())
    assert kept(settings.BLOB_DIR) == []


def test_two_uploads_of_the_same_bytes_at_once_end_as_one_file(settings: Any) -> None:
    start = threading.Barrier(8)
    found: list[local.StoredBlob] = []

    def upload() -> None:
        start.wait()
        found.append(local.put(io.BytesIO(DATA)))

    threads = [threading.Thread(target=upload) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert kept(settings.BLOB_DIR) == [local.local_path(found[0].sha256)]
    assert local.local_path(found[0].sha256).read_bytes() == DATA


@pytest.mark.parametrize(("start", "end"), [(0, None), (5, 20), (100, None), (0, 0), (7, 8)])
def test_it_reads_a_part(start: int, end: int | None) -> None:
    stored = local.put(io.BytesIO(DATA))
    assert b"".join(local.open(stored.sha256, start, end)) == DATA[start:end]


def test_it_says_that_bytes_are_missing() -> None:
    stored = local.put(io.BytesIO(b"soon gone"))
    local.delete(stored.sha256)
    with pytest.raises(local.BytesMissing, match=stored.sha256[:12]):
        local.open(stored.sha256)
    local.delete(stored.sha256)


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "abc", ""])
def test_it_knows_no_path_for_what_is_not_a_hash(name: str) -> None:
    with pytest.raises(ValueError, match="not a sha256"):
        local.local_path(name)


def test_it_makes_a_folder_of_a_commit_once(opposites: Any) -> None:
    folder = local.materialise(opposites.commit)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    inode = folder.stat().st_ino
    assert local.materialise(opposites.commit) == folder
    assert folder.stat().st_ino == inode
    assert [p for p in folder.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.django_db(transaction=True)
def test_it_makes_a_folder_from_many_threads_at_once(
    settings: Any, tmp_path: Path, opposites: Any
) -> None:
    from django.db import connection

    start = threading.Barrier(4)
    found = []
    settings.CACHE_DIR = tmp_path / "another cache"

    def make() -> None:
        start.wait()
        try:
            found.append(local.materialise(opposites.commit))
        finally:
            connection.close()

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert len(list(found[0].iterdir())) == 3


def test_it_makes_no_half_folder_when_bytes_are_missing(settings: Any, opposites: Any) -> None:
    import shutil

    shutil.rmtree(settings.CACHE_DIR)
    local.delete(opposites.weights_sha256)
    with pytest.raises(local.BytesMissing):
        local.materialise(opposites.commit)
    assert list((settings.CACHE_DIR / "commits").iterdir()) == []


def test_a_check_that_finds_the_disk_full_says_so(
    alice: User, opposites: Any, run_job: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linking takes no bytes, but where it does not work the files are copied."""

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    shutil.rmtree(settings.CACHE_DIR)
    LoraModule.objects.update(status=LoraModule.CHECKING)
    checking.check_later(opposites, alice)
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", full)
        patched.setattr(shutil, "copyfile", full)
        run_job(opposites)
    opposites.refresh_from_db()
    assert opposites.status == LoraModule.REJECTED
    assert "disk is full" in opposites.rejected_reason
    assert list((settings.CACHE_DIR / "commits").iterdir()) == []

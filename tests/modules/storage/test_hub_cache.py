"""Pinned files in the client's own cache: right to the byte, whatever happens on the way."""

from __future__ import annotations

import io
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from hub_site.accounts.models import User
from hub_site.jobs import job_tokens
from hub_site.jobs.queue import JobCancelled
from hub_site.jobs.worker import Lease
from modules import services
from modules.models import LoraModule
from modules.storage import hub, hub_cache, local
from modules.storage.hub_cache import Pinned
from tests.gate import Gate
from tests.modules.storage.conftest import claimed

pytestmark = pytest.mark.django_db(transaction=True)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def pinned(private: LoraModule) -> Pinned:
    files = dict(private.commit.files.values_list("path", "blob_id"))
    return Pinned(str(private.repo), private.commit.sha, files)


def fetch(pinned: Pinned, gate: Gate, lease: Lease, **changes: Any) -> Path:
    options = {"endpoint": gate.url, "token": job_tokens.issue(lease.job), "check": lease.check}
    return hub_cache.fetch(pinned, **options | changes)


def test_they_lie_in_the_hubs_own_cache(
    cache: Path, gate: Gate, lease: Lease, pinned: Pinned
) -> None:
    folder = fetch(pinned, gate, lease)
    assert folder == cache / "models--alice--secret" / "snapshots" / pinned.revision
    for path, sha256 in pinned.files.items():
        assert (folder / path).read_bytes() == local.local_path(sha256).read_bytes()


def test_what_is_there_is_not_fetched_again(
    cache: Path, gate: Gate, lease: Lease, pinned: Pinned
) -> None:
    folder = fetch(pinned, gate, lease)
    gate.shut()
    hub_cache._verified.clear()  # as another process
    assert fetch(pinned, gate, lease) == folder


@pytest.mark.parametrize("in_a_new_process", [False, True])
def test_a_changed_byte_is_noticed_and_mended(
    cache: Path,
    gate: Gate,
    lease: Lease,
    pinned: Pinned,
    in_a_new_process: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = fetch(pinned, gate, lease) / WEIGHTS
    right, seen = file.read_bytes(), file.stat()
    wrong = bytearray(right)
    wrong[-1] ^= 1
    file.resolve().write_bytes(wrong)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # by somebody who covers it up
    if in_a_new_process:
        hub_cache._verified.clear()
    fetch(pinned, gate, lease)
    assert file.read_bytes() == right
    assert f"{WEIGHTS} of alice/secret is not what was pinned" in caplog.text


def test_a_lost_file_is_fetched_again(
    cache: Path, gate: Gate, lease: Lease, pinned: Pinned
) -> None:
    file = fetch(pinned, gate, lease) / WEIGHTS
    file.resolve().unlink()
    fetch(pinned, gate, lease)
    assert file.read_bytes() == local.local_path(pinned.files[WEIGHTS]).read_bytes()


def test_what_the_cache_leads_to_outside_of_itself_is_not_deleted(
    cache: Path, gate: Gate, lease: Lease, pinned: Pinned, tmp_path: Path
) -> None:
    file = fetch(pinned, gate, lease) / WEIGHTS
    mine = tmp_path / "mine"
    mine.write_text("not the cache's")
    file.unlink()
    file.symlink_to(mine)
    fetch(pinned, gate, lease)
    assert mine.read_text() == "not the cache's"
    assert file.read_bytes() == local.local_path(pinned.files[WEIGHTS]).read_bytes()


def test_other_bytes_than_pinned_are_never_handed_on(
    cache: Path, gate: Gate, lease: Lease, pinned: Pinned
) -> None:
    other = Pinned(pinned.repo_id, pinned.revision, {**pinned.files, WEIGHTS: "0" * 64})
    with pytest.raises(hub_cache.WrongFiles, match=f"{WEIGHTS} of alice/secret"):
        fetch(other, gate, lease)
    assert not list(cache.rglob(WEIGHTS))


def test_a_line_that_breaks_in_mid_file_is_taken_up_again(
    cache: Path, gate: Gate, lease: Lease, pinned: Pinned
) -> None:
    gate.cut_answers = 2
    folder = fetch(pinned, gate, lease)
    assert gate.cut_answers == 0
    path = "notes/padding.safetensors"
    assert (folder / path).read_bytes() == local.local_path(pinned.files[path]).read_bytes()


def test_a_job_that_is_cancelled_waits_for_nobody(
    cache: Path, lease: Lease, pinned: Pinned
) -> None:
    def cancelled() -> None:
        raise JobCancelled

    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(JobCancelled):
        hub_cache.fetch(
            pinned,
            endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}",
            token=False,
            check=cancelled,
        )


@pytest.mark.slow
def test_a_site_that_takes_the_call_and_never_answers_is_given_up(
    cache: Path, lease: Lease, pinned: Pinned, settings: Any
) -> None:
    """The client would ask for the list of files without a limit of time."""
    settings.HUB_TIMEOUT_SECONDS = 1
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(hub.HubDown):
        hub_cache.fetch(
            pinned,
            endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}",
            token=False,
            check=lambda: None,
        )


def test_a_download_that_nobody_waits_for_ends(
    pinned: Pinned,
) -> None:
    bars: list[Any] = []
    begun, over = threading.Event(), threading.Event()

    def download(bar: Any) -> None:
        bars.append(bar(disable=True))
        begun.set()
        over.wait()

    def check() -> None:
        if begun.is_set():
            raise JobCancelled

    with pytest.raises(JobCancelled):
        hub_cache._watched(download, pinned, check)
    with pytest.raises(hub_cache._Abandoned):
        bars[0].update(10)  # what the client calls with the next piece
    over.set()


def test_what_is_not_there_or_not_ours_is_told_apart(
    cache: Path, gate: Gate, lease: Lease, pinned: Pinned
) -> None:
    with pytest.raises(hub.NotOnHub):
        fetch(pinned, gate, lease, token=False)
    with pytest.raises(hub.NotOnHub):
        fetch(Pinned(pinned.repo_id, "0" * 40, pinned.files), gate, lease)
    with pytest.raises(hub.BadHubToken):
        fetch(pinned, gate, lease, token="lcj_forged")
    assert not cache.exists() or not list(cache.rglob(WEIGHTS))


def test_a_file_whose_name_is_a_pattern_is_one_file(
    cache: Path, gate: Gate, alice: User, secret: LoraModule
) -> None:
    made = services.commit(
        repo=secret.repo,
        author=alice,
        title="Odd names",
        additions={"a[1]*.txt": io.BytesIO(b"one"), "a1.txt": io.BytesIO(b"other")},
    )
    secret.refresh_from_db()
    files = dict(made.files.values_list("path", "blob_id"))
    folder = fetch(Pinned(str(secret.repo), made.sha, files), gate, claimed(secret))
    assert (folder / "a[1]*.txt").read_bytes() == b"one"

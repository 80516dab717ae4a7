"""Pinned files by the stock client, into its own cache (HF_HOME), every byte verified.

For workers alone. Endpoint and token are said with every call; what the client finds in the
environment decides where its cache lies, and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.utils import tqdm

from composer.engine.errors import CommonsError
from modules.storage import hub

logger = logging.getLogger(__name__)

T = TypeVar("T")
Check = Callable[[], None]
Identity = tuple[int, ...]

CHUNK = 1 << 20
LOOK = 0.25  # seconds between looks at whether we should stop


class WrongFiles(CommonsError):
    """What came, twice, is not what the library pinned."""

    code = "wrong_bytes"


@dataclass(frozen=True)
class Pinned:
    """One version of a repo: its files, each with the sha256 of its bytes."""

    repo_id: str
    revision: str
    files: Mapping[str, str]


# What was read and found right. A file counts as the same while the disk says so; the time of its
# last change (ctime) cannot be set by whoever changes it. Another process reads everything once
# more: the disk may have been anywhere meanwhile, and the file is about to be read anyway.
_verified: dict[Path, tuple[Identity, str]] = {}


def fetch(pinned: Pinned, *, endpoint: str, token: str | bool, check: Check) -> Path:
    """The folder of this version, complete and verified. `check` is called all the time; what it
    raises ends the wait. Raises a HubFault when the files cannot be had."""
    hub.prepare()
    api = HfApi(endpoint=endpoint, token=token, library_name="lora-commons")

    def whole_version(bar: type[tqdm]) -> str:
        return api.snapshot_download(
            pinned.repo_id,
            revision=pinned.revision,
            allow_patterns=[escape(path) for path in pinned.files],
            tqdm_class=bar,
        )

    folder = Path(_watched(whole_version, pinned, check))
    for path in pinned.files:
        if not _is_right(folder, path, pinned, check):
            _fetch_again(api, folder, path, pinned, check)
    return folder


def _fetch_again(api: HfApi, folder: Path, path: str, pinned: Pinned, check: Check) -> None:
    logger.warning("%s of %s is not what was pinned; fetching it again", path, pinned.repo_id)

    def one_file(bar: type[tqdm]) -> str:
        return api.hf_hub_download(pinned.repo_id, path, revision=pinned.revision, tqdm_class=bar)

    _delete(folder, path)
    _watched(one_file, pinned, check)
    if not _is_right(folder, path, pinned, check):
        _delete(folder, path)
        raise WrongFiles(
            f"{path} of {pinned.repo_id} came from {api.endpoint} with other bytes than the "
            "library pinned, twice. Tell the people who run this site."
        )


# --- the client at work ------------------------------------------------------------------------


class _Abandoned(Exception):
    """Nobody waits for this download any more."""


def _watched(call: Callable[[type[tqdm]], T], pinned: Pinned, check: Check) -> T:
    """Run the client in a thread of its own: it sleeps and tries again by itself, and a job that is
    cancelled meanwhile should not wait for that."""
    nobody_waits = threading.Event()

    class Bar(tqdm):  # type: ignore[misc]
        """What the client calls for every piece that came."""

        def update(self, n: float | None = 1) -> Any:
            if nobody_waits.is_set():
                raise _Abandoned
            return super().update(n)

    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(call(Bar))
        except BaseException as error:  # noqa: BLE001 (raised again below, in the job's thread)
            found.set_exception(error)

    threading.Thread(target=run, name=f"fetch {pinned.repo_id}", daemon=True).start()
    try:
        while not wait([found], timeout=LOOK).done:
            check()
        return found.result()
    except hub.ERRORS as error:
        raise hub.fault(error, pinned.repo_id) from error
    finally:
        nobody_waits.set()


# --- what came ---------------------------------------------------------------------------------


def _is_right(folder: Path, path: str, pinned: Pinned, check: Check) -> bool:
    file, sha256 = folder / path, pinned.files[path]
    try:
        identity = _identity(file)
        if _verified.get(file) == (identity, sha256):
            return True
        found = _sha256(file, check)
    except OSError:
        return False
    if found == sha256:
        _verified[file] = (identity, sha256)
    return found == sha256


def _identity(file: Path) -> Identity:
    seen = file.stat()
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _sha256(file: Path, check: Check) -> str:
    digest = hashlib.sha256()
    looked = time.monotonic()
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            if time.monotonic() - looked > LOOK:
                check()
                looked = time.monotonic()
    return digest.hexdigest()


def _delete(folder: Path, path: str) -> None:
    """The name in the snapshot, and the bytes it leads to where they are the cache's own."""
    file = folder / path
    bytes_of = file.resolve()
    file.unlink(missing_ok=True)
    if bytes_of.is_relative_to(folder.parent.parent.resolve()):
        bytes_of.unlink(missing_ok=True)

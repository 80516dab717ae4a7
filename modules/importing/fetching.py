"""Bytes from the Hub into files without names: what breaks off or dies leaves nothing behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, BinaryIO, cast

from hub_site import figures
from modules.storage import local
from modules.storage.hub import File, Hub, HubDown
from modules.upload import receiving

RESUMED = 3  # times that a broken connection is taken up where it broke, before all begins anew

KeepOn = Callable[[], None]
Say = Callable[[str], None]


class Damaged(HubDown):
    code = "hub_damaged"


def fetch(
    hub: Hub, repo_id: str, sha: str, file: File, stack: ExitStack, keep_on: KeepOn, say: Say
) -> BinaryIO:
    """One file of a pinned commit, and surely the one that the Hub's list means.

    `keep_on` is called between chunks; what it raises ends the download.
    """
    target = cast(BinaryIO, stack.enter_context(receiving.nameless()))
    for again in range(RESUMED + 1):
        try:
            _receive(hub, repo_id, sha, file, target, keep_on, say)
            break
        except Damaged:
            raise
        except HubDown:
            if again == RESUMED or not target.tell():
                raise
    _check(target, file)
    target.seek(0)
    return target


def _receive(
    hub: Hub, repo_id: str, sha: str, file: File, target: IO[bytes], keep_on: KeepOn, say: Say
) -> None:
    if target.tell() == file.size and file.size:
        return
    say(f"fetching {file.path}")
    with hub.opened(repo_id, sha, file.path, start=target.tell()) as chunks:
        for chunk in chunks:
            keep_on()
            if target.tell() + len(chunk) > file.size:
                raise Damaged(f"The Hub sends more of {file.path} than its list says there is.")
            with local.told_when_full():
                target.write(chunk)
            say(f"fetching {file.path}: {figures.size(target.tell())} of {figures.size(file.size)}")
    if target.tell() < file.size:
        raise HubDown(f"The connection ended after {target.tell():,} bytes of {file.path}.")


def _check(file: BinaryIO, said: File) -> None:
    """By the sha256 that the Hub tells of large files, or by the id that git gives small ones."""
    size = file.seek(0, 2)
    if said.sha256:
        digest = digest_of(file, hashlib.sha256())
    else:
        digest = digest_of(file, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))
    if size != said.size or digest != (said.sha256 or said.git_sha1):
        raise Damaged(
            f"What came of {said.path} is not what the Hub's list names "
            f"({(said.sha256 or said.git_sha1)[:12]}…), so it was thrown away."
        )


def digest_of(file: BinaryIO, digest: hashlib._Hash) -> str:
    """Of the whole file, which stands at its beginning afterwards."""
    file.seek(0)
    while chunk := file.read(local.CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()

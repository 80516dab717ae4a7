"""A backup as one file: a tar with what a folder would hold, for small sites and for carrying.

It is written beside its name and renamed when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO

from hub_site.backup import manifest
from hub_site.backup.errors import BackupError, Damaged
from hub_site.backup.manifest import Manifest


class _Hashing:
    """Reads through, so that a member's bytes are known once they are in."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self.source.read(size)
        self.digest.update(chunk)
        return chunk


class TarFile:
    """See `folder.Folder`: the same words, one snapshot."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.half = path.with_name(f".{path.name}.half")
        self._tar: tarfile.TarFile | None = None
        self._added: set[str] = set()

    def __str__(self) -> str:
        return str(self.path)

    # --- writing ---------------------------------------------------------------------------------

    @contextmanager
    def adding(self) -> Iterator[None]:
        if self.path.exists():
            raise BackupError(f"{self.path} exists. A file holds one backup: name a new one.")
        if not self.path.parent.is_dir():
            raise BackupError(f"There is no folder {self.path.parent}.")
        try:
            with tarfile.open(self.half, "w", format=tarfile.PAX_FORMAT) as self._tar:
                yield
        finally:
            self.half.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path.parent).free

    @contextmanager
    def drafting(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".backup-") as folder:
            draft = Path(folder, name)
            draft.mkdir()
            yield draft

    def has(self, sha256: str, size: int) -> bool:
        return sha256 in self._added

    def put(self, sha256: str, size: int, source: IO[bytes]) -> None:
        hashing = _Hashing(source)
        try:
            self._add(f"blobs/{sha256}", size, hashing)  # type: ignore[arg-type]
        except OSError as error:
            if "end of data" not in str(error):
                raise
            raise self._damaged(sha256) from error
        if hashing.digest.hexdigest() != sha256 or source.read(1):
            raise self._damaged(sha256)
        self._added.add(sha256)

    def _damaged(self, sha256: str) -> BackupError:
        """What was written of it cannot be taken back, so there is no going on without it."""
        return BackupError(
            f"The stored file {sha256} is damaged, so {self.path} was not written. A backup into a "
            "folder can be made without it: --despite-missing."
        )

    def finish(self, draft: Path, found: Manifest) -> None:
        assert self._tar is not None
        for part in (manifest.DUMP, manifest.LIST):
            with (draft / part).open("rb") as file:
                self._add(f"snapshots/{found.name}/{part}", (draft / part).stat().st_size, file)
        (draft / manifest.NAME).write_bytes(found.to_bytes())
        with (draft / manifest.NAME).open("rb") as file:
            size = (draft / manifest.NAME).stat().st_size
            self._add(f"snapshots/{found.name}/{manifest.NAME}", size, file)
        self._tar.close()
        os.sync()
        self.half.replace(self.path)
        os.sync()

    def forget_all_but(self, newest: int) -> tuple[int, int]:
        return 0, 0

    def _add(self, name: str, size: int, source: IO[bytes]) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o600
        self._tar.addfile(member, source)

    # --- reading ---------------------------------------------------------------------------------

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:
        try:
            self._tar = tarfile.open(self.path, "r:")  # noqa: SIM115  open until the end
            return {member.name: member for member in self._tar.getmembers()}
        except (OSError, tarfile.TarError) as error:
            raise Damaged(f"{self.path} cannot be read as a backup: {error}.") from error

    def names(self) -> list[str]:
        end = f"/{manifest.NAME}"
        return sorted(name.split("/")[1] for name in self._members if name.endswith(end))

    def manifest(self, name: str) -> Manifest:
        with self.opened(name, manifest.NAME) as file:
            return Manifest.from_bytes(file.read())

    def blobs(self, name: str) -> Iterator[tuple[str, int]]:
        with self.opened(name, manifest.LIST) as lines:
            yield from manifest.read_list(lines)

    @contextmanager
    def dump(self, name: str) -> Iterator[Path]:
        """pg_restore looks here and there in it, so it is unpacked."""
        with (
            tempfile.NamedTemporaryFile(suffix=".dump") as file,
            self.opened(name, manifest.DUMP) as packed,
        ):
            shutil.copyfileobj(packed, file)
            file.flush()
            yield Path(file.name)

    def opened(self, name: str, part: str) -> IO[bytes]:
        return self._member(f"snapshots/{name}/{part}")

    def blob(self, sha256: str) -> IO[bytes]:
        return self._member(f"blobs/{sha256}")

    def _member(self, name: str) -> IO[bytes]:
        found = self._members.get(name)
        opened = self._tar.extractfile(found) if found and self._tar else None
        if opened is None:
            raise Damaged(f"{name} is missing in {self.path}.")
        return opened

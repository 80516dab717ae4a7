"""A backup as a folder, which each further backup adds to.

blobs/ab/cd/<sha256>             every file of the store once, whichever snapshots have it
snapshots/<time>/database.dump   the database at that time
snapshots/<time>/blobs.txt       the files that it names, and their sizes
snapshots/<time>/manifest.json   written last: a snapshot without it was never finished
incoming/                        half files of a backup that was killed
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hub_site.backup import manifest
from hub_site.backup.errors import BackupError, Damaged
from hub_site.backup.manifest import Manifest, Part


class Folder:
    """Both sides: what a backup writes, and what a restore reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.snapshots = root / "snapshots"
        self.incoming = root / "incoming"

    def __str__(self) -> str:
        return str(self.root)

    # --- writing ---------------------------------------------------------------------------------

    @contextmanager
    def adding(self) -> Iterator[None]:
        """One backup at a time; what a killed one left is cleared away first."""
        if self.root.exists() and not self.snapshots.is_dir() and any(self.root.iterdir()):
            raise BackupError(
                f"{self.root} holds something else than backups. Name an empty folder or a new one."
            )
        for folder in (self.root, self.snapshots, self.incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.root / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BackupError(f"Another backup is being written to {self.root}.") from error
            for half in self.incoming.iterdir():
                half.unlink()
            for snapshot in self.snapshots.iterdir():
                if not (snapshot / manifest.NAME).exists():
                    shutil.rmtree(snapshot)
            yield

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    @contextmanager
    def drafting(self, name: str) -> Iterator[Path]:
        """Where the dump and the list are written: no snapshot until `finish`."""
        folder = self.snapshots / name
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            if not (folder / manifest.NAME).exists():
                shutil.rmtree(folder)

    def has(self, sha256: str, size: int) -> bool:
        try:
            return self._blob(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def put(self, sha256: str, size: int, source: IO[bytes]) -> None:
        """Raises Damaged, and keeps nothing, when the bytes are not what the hash says."""
        target = self._blob(sha256)
        draft = Path(tempfile.mkstemp(dir=self.incoming)[1])
        try:
            with draft.open("wb") as file:
                manifest.check_bytes(f"The stored file {sha256}", source, Part(size, sha256), file)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)

    def finish(self, draft: Path, found: Manifest) -> None:
        os.sync()  # everything that it names is on the disk before it is
        half = draft / f".{manifest.NAME}"
        with half.open("wb") as file:
            file.write(found.to_bytes())
            file.flush()
            os.fsync(file.fileno())
        half.replace(draft / manifest.NAME)
        os.sync()

    def forget_all_but(self, newest: int) -> tuple[int, int]:
        """Older snapshots, and files that no other one names; says how many of each went."""
        old = self.names()[:-newest]
        for name in old:
            # First the line that makes it one: killed after that, it is a half one.
            (self.snapshots / name / manifest.NAME).unlink()
            shutil.rmtree(self.snapshots / name)
        return len(old), self._forget_unnamed() if old else 0

    def _forget_unnamed(self) -> int:
        named = {sha256 for name in self.names() for sha256, _ in self.blobs(name)}
        unnamed = [path for path in self._blobs() if path.name not in named]
        for path in unnamed:
            path.unlink()
        return len(unnamed)

    # --- reading ---------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Whole snapshots, the newest last."""
        return sorted(path.parent.name for path in self.snapshots.glob(f"*/{manifest.NAME}"))

    def manifest(self, name: str) -> Manifest:
        return Manifest.from_bytes((self.snapshots / name / manifest.NAME).read_bytes())

    def blobs(self, name: str) -> Iterator[tuple[str, int]]:
        with self._opened(self.snapshots / name / manifest.LIST) as lines:
            yield from manifest.read_list(lines)

    @contextmanager
    def dump(self, name: str) -> Iterator[Path]:
        yield self.snapshots / name / manifest.DUMP

    def opened(self, name: str, part: str) -> IO[bytes]:
        return self._opened(self.snapshots / name / part)

    def blob(self, sha256: str) -> IO[bytes]:
        return self._opened(self._blob(sha256))

    def _opened(self, path: Path) -> IO[bytes]:
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            raise Damaged(f"{path} is missing in the backup.") from error

    def _blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256[:2] / sha256[2:4] / sha256

    def _blobs(self) -> Iterator[Path]:
        return (path for path in self.root.glob("blobs/??/??/*") if len(path.name) == 64)

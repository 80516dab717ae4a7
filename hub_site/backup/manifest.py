"""What a backup says of itself. It is written last: without it there is no backup."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from hub_site.backup.errors import BackupError, Damaged

FORMAT = 1
NAME, DUMP, LIST = "manifest.json", "database.dump", "blobs.txt"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Part:
    """One file of the backup."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """tables: {table: rows}; migrations: {app: [names]}. `elsewhere` are blobs whose bytes only the
    Hub has, `missing` those that were nowhere when the backup was made despite of it."""

    name: str
    made_at: str
    site: str
    postgres: int
    dumped_by: int
    migrations: dict[str, list[str]]
    tables: dict[str, int]
    dump: Part
    blob_list: Part
    blobs: int
    blob_bytes: int
    elsewhere: dict[str, int]
    missing: dict[str, int]
    left_out: list[str]
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        try:
            found: dict[str, Any] = json.loads(data)
            if found["format"] > FORMAT:
                raise BackupError(
                    f"This backup has the format {found['format']}, and this version of the site "
                    f"knows {FORMAT}. Restore it with the version that made it, or a newer one."
                )
            for name in ("migrations", "tables", "elsewhere", "missing"):
                if not isinstance(found[name], dict):
                    raise TypeError(f"{name} is no object")
            parts = {name: Part(**found[name]) for name in ("dump", "blob_list")}
            return cls(**{**found, **parts})
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(f"The manifest of this backup cannot be read: {error}.") from error


def part_of(path: Path) -> Part:
    with path.open("rb") as file:
        return Part(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def write_list(path: Path, blobs: Iterator[tuple[str, int]]) -> tuple[int, int]:
    """A line for each blob, "sha256 size"; says how many there are, and their bytes."""
    count = total = 0
    with path.open("w", encoding="ascii") as file:
        for sha256, size in blobs:
            file.write(f"{sha256} {size}\n")
            count, total = count + 1, total + size
    return count, total


def read_list(lines: IO[bytes]) -> Iterator[tuple[str, int]]:
    for line in lines:
        sha256, _, size = line.decode("ascii").partition(" ")
        yield sha256, int(size)


def copy(source: IO[bytes], target: IO[bytes] | None) -> tuple[str, int]:
    """The hash and size of what was read, and written when there is a target."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest(), size


def check_bytes(
    what: str, source: IO[bytes], wanted: Part, target: IO[bytes] | None = None
) -> None:
    """Raises Damaged. What is read is written to the target, when there is one."""
    sha256, size = copy(source, target)
    if (sha256, size) != (wanted.sha256, wanted.size):
        raise Damaged(
            f"{what} is damaged: it has {size:,} bytes with the sha256 {sha256}, and should have "
            f"{wanted.size:,} with {wanted.sha256}."
        )

"""How much room the site's folders have left."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from django.conf import settings

from hub_site.figures import size


@dataclass(frozen=True)
class Room:
    """Of the file system that a folder is on: bytes free for us, and bytes in all."""

    name: str
    free: int
    total: int
    device: int = 0

    @property
    def share(self) -> float:
        return self.free / self.total if self.total else 0.0

    @property
    def is_low(self) -> bool:
        return self.free < settings.DISK_LOW_BYTES


def rooms() -> list[Room]:
    """Of everything the site writes, and of the stored files."""
    folders = {"var": settings.VAR_DIR, "blobs": settings.BLOB_DIR}
    return [_room(name, folder) for name, folder in folders.items()]


def disks() -> list[Room]:
    """Each file system once, by the names of all that is on it."""
    found: dict[int, Room] = {}
    for room in rooms():
        same = found.get(room.device)
        found[room.device] = replace(same, name=f"{same.name} and {room.name}") if same else room
    return list(found.values())


def trouble() -> str:
    """What is low, in words; empty when nothing is."""
    low = [room for room in rooms() if room.is_low]
    names = {"var": "VAR_DIR", "blobs": "BLOB_DIR"}
    return ", ".join(f"{size(room.free)} free in {names[room.name]}" for room in low)


def _room(name: str, folder: Path) -> Room:
    while not folder.exists():  # made when the first file comes
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return Room(name, usage.free, usage.total, folder.stat().st_dev)

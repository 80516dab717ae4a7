"""Where a backup lies: in a folder that grows, or in one file."""

from pathlib import Path
from typing import TypeAlias

from hub_site.backup.errors import BackupError
from hub_site.backup.folder import Folder
from hub_site.backup.tar_file import TarFile

Place: TypeAlias = Folder | TarFile


def place(name: str) -> Place:
    """A name that ends in .tar is a file, any other a folder."""
    path = Path(name).absolute()
    return TarFile(path) if path.suffix == ".tar" else Folder(path)


def whole(name: str) -> Place:
    """What can be restored from."""
    found = place(name)
    path = Path(name)
    if not path.exists():
        raise BackupError(f"There is nothing at {path.absolute()}.")
    if isinstance(found, Folder) and not path.is_dir():
        raise BackupError(f"{path.absolute()} is neither a folder nor a file that ends in .tar.")
    if not found.names():
        raise BackupError(f"{found} holds no whole backup: none that was made came to its end.")
    return found

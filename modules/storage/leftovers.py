"""What killed processes left in the cache and among temporary files. Only what is older than a day
(the caller says) goes, and only what is known to belong to nobody: anything else stays.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from django.conf import settings

from modules.models import BaseModel


def cached(before: float) -> int:
    """Downloads cut off, and tokenizers that no base model has any more."""
    count = 0
    for folder in settings.CACHE_DIR.glob("fetching-*"):
        if folder.is_dir() and not folder.is_symlink() and _is_old_tree(folder, before):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    old = {path.name: path for path in _old_files(settings.CACHE_DIR / "tokenizers", before)}
    known = BaseModel.objects.filter(tokenizer_sha256__in=old)
    for name in old.keys() - set(known.values_list("tokenizer_sha256", flat=True)):
        old[name].unlink(missing_ok=True)
        count += 1
    return count


def temporary(before: float) -> int:
    """Files under VAR_DIR/tmp that nobody wrote to, and the folders that are empty then."""
    root = settings.VAR_DIR / "tmp"
    count = 0
    for name, folders, _ in os.walk(root, topdown=False):
        here = Path(name)
        for path in _old_files(here, before):
            path.unlink(missing_ok=True)
            count += 1
        for folder in folders:
            _remove_empty(here / folder, before)
    return count


def _old_files(folder: Path, before: float) -> list[Path]:
    """Plain files: a socket or a link is in use for as long as it is there."""
    try:
        return [path for path in folder.iterdir() if _is_old_file(path, before)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_old_file(path: Path, before: float) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_mtime < before


def _is_old_tree(folder: Path, before: float) -> bool:
    """Whether nothing in it was written of late."""
    try:
        newest = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:  # somebody works in it
        return False
    return newest < before


def _remove_empty(folder: Path, before: float) -> None:
    try:
        if folder.lstat().st_mtime < before:
            folder.rmdir()
    except OSError:  # something is in it, or it is gone
        return

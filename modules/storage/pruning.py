"""Bytes that nothing names any more, and what killed uploads left: cleared away after a day.

A file's age counts from when it last came in, so that what an author has put aside, or a worker
has built, is safe until its row is written.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import Exists, OuterRef

from composer.engine.errors import CommonsError
from modules.models import Blob, BlobOnHub, Commit, CommitFile, Grant, HubHome
from modules.storage import hub, leftovers, local
from modules.upload import intake

# A client remembers for three weeks which xorbs it sent, and does not send them again.
XORBS_AFTER = timedelta(days=30)
T = TypeVar("T")
BATCH = 500
LEAST_EVICTED = 64 * 1024  # configs and cards are read for every page
RUN_LOCK = intake.STORE_LOCK + 1


class AlreadyPruning(CommonsError):
    code = "already_pruning"


@dataclass
class Pruned:
    blobs: int = 0
    evicted: int = 0
    size: int = 0
    leftovers: int = 0
    folders: int = 0
    cached: int = 0
    temporary: int = 0
    grants: int = 0


def prune(before: float | None = None) -> Pruned:
    """Delete what nothing refers to and is older than a day; `before` is a time as files have."""
    before = time.time() - intake.GRACE.total_seconds() if before is None else before
    found = Pruned()
    with _only_one():
        _evict(found)
        found.leftovers = _leftovers(settings.BLOB_DIR / "incoming", before)
        for folder in (settings.BLOB_DIR / "xorbs").glob("*"):
            found.leftovers += _leftovers(folder, before - XORBS_AFTER.total_seconds())
        found.grants = intake.lapsed_grants().delete()[0]
        for paths in _batches(_old_files(before), BATCH):
            _prune_batch(paths, before, found)
        found.folders = _commit_folders(before)
        found.cached = leftovers.cached(before)
        found.temporary = leftovers.temporary(before)
    return found


def _evict(found: Pruned) -> None:
    """Weights that the Hub keeps for us, and that nobody wanted for some days, need no room here.

    Only what stands in nothing but versions of modules that are kept there, each of which was seen
    to hold these very bytes, and is now: a repo may have been deleted since.
    """
    before = time.time() - timedelta(days=settings.HUB_CACHE_DAYS).total_seconds()
    facts = _Facts()
    for batch in _batches(_kept_on_hub(), BATCH):
        old = {sha256 for sha256 in batch if _is_older(local.local_path(sha256), before)}
        seen = facts.seen(_kept_nowhere_else(old))
        with _alone():
            hashes = [sha256 for sha256 in seen if _is_older(local.local_path(sha256), before)]
            for sha256 in _kept_nowhere_else(hashes):
                found.size += local.local_path(sha256).stat().st_size
                found.evicted += 1
                for sha in Commit.objects.filter(files__blob=sha256).values_list("sha", flat=True):
                    shutil.rmtree(settings.CACHE_DIR / "commits" / sha, ignore_errors=True)
                local.delete(sha256)


class _Facts:
    """What the Hub says that it holds; each version is asked for once, a Hub in trouble no more."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], hub.Facts | None] = {}
        self._is_down = False

    def seen(self, hashes: set[str]) -> set[str]:
        """Those that are at every place where they are said to be."""
        rows = BlobOnHub.objects.filter(blob__in=hashes, home__place=HubHome.SITE)
        rows = rows.exclude(home__repo=None).select_related("home", "blob")
        return hashes - {row.blob_id for row in rows.iterator() if not self._holds(row)}

    def _holds(self, row: BlobOnHub) -> bool:
        found = self._of(row.home.hub_id, row.sha)
        file = found.file(row.path) if found else None
        return file is not None and hub.is_same(file, row.blob)

    def _of(self, hub_id: str, sha: str) -> hub.Facts | None:
        key = (hub_id, sha)
        if key not in self._known and not self._is_down:
            try:
                self._known[key] = hub.Hub(settings.HF_TOKEN).facts(hub_id, sha)
            except hub.HubFault as fault:
                self._known[key] = None
                self._is_down = fault.helps or isinstance(fault, hub.BadHubToken)
        return self._known.get(key)


def _kept_on_hub() -> Iterator[str]:
    rows = BlobOnHub.objects.filter(home__place=HubHome.SITE).exclude(home__repo=None)
    rows = rows.filter(home__state=HubHome.KEPT, home__move_to="", blob__size__gte=LEAST_EVICTED)
    yield from rows.order_by("pk").values_list("blob_id", flat=True).iterator(chunk_size=BATCH)


def _kept_nowhere_else(hashes: Iterable[str]) -> set[str]:
    held = set(hashes)
    elsewhere = CommitFile.objects.filter(blob__in=held).exclude(
        Exists(BlobOnHub.objects.filter(blob=OuterRef("blob"), home__repo=OuterRef("commit__repo"),
                                        home__place=HubHome.SITE))
    )  # fmt: skip
    held -= set(elsewhere.values_list("blob_id", flat=True))
    return held - _referenced(held, besides=(Grant, BlobOnHub, CommitFile))


def _prune_batch(paths: tuple[Path, ...], before: float, found: Pruned) -> None:
    """Rows first, then files, while nobody adds to the store: dying in between leaves a file
    without a row, which the next run takes."""
    with _alone():
        hashes = [path.name for path in paths if _is_older(path, before)]
        unused = set(hashes) - _referenced(hashes)
        with transaction.atomic():
            Blob.objects.filter(pk__in=unused).delete()
        for path in paths:
            # Looked at once more: the same bytes may be coming in, and wait for us to finish.
            if path.name in unused and _is_older(path, before):
                found.size += path.stat().st_size
                found.blobs += 1
                local.delete(path.name)


def _referenced(
    hashes: Iterable[str], besides: tuple[type[models.Model], ...] = (Grant, BlobOnHub)
) -> set[str]:
    """Those that anything but these refers to, whichever app's row it is."""
    used: set[str] = set()
    for relation in Blob._meta.get_fields(include_hidden=True):
        if isinstance(relation, models.ManyToOneRel) and relation.related_model not in besides:
            field = relation.field
            rows = field.model._base_manager.filter(**{f"{field.name}__in": hashes})
            used.update(rows.values_list(field.attname, flat=True))
    return used


def _old_files(before: float) -> Iterator[Path]:
    for path in settings.BLOB_DIR.glob("??/??/*"):
        if len(path.name) == 64 and _is_older(path, before):
            yield path


def _leftovers(folder: Path, before: float) -> int:
    """Half files of uploads whose process was killed."""
    old = [p for p in folder.glob("*") if p.is_file() and _is_older(p, before)]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _commit_folders(before: float) -> int:
    """Unpacked versions of repos that are gone; they are links to the same bytes."""
    count = 0
    for folders in _batches((settings.CACHE_DIR / "commits").glob("*"), BATCH):
        old = {folder.name: folder for folder in folders if _is_older(folder, before)}
        there = set(Commit.objects.filter(sha__in=old).values_list("sha", flat=True))
        for name in old.keys() - there:
            shutil.rmtree(old[name], ignore_errors=True)
            count += 1
    return count


def _batches(things: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    rest = iter(things)
    while batch := tuple(islice(rest, size)):
        yield batch


def _is_older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False


@contextmanager
def _alone() -> Iterator[None]:
    """Nobody adds to the store meanwhile: see `intake.hold_store`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [intake.STORE_LOCK])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [intake.STORE_LOCK])


@contextmanager
def _only_one() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [RUN_LOCK])
        if not cursor.fetchone()[0]:
            raise AlreadyPruning(
                "The store is being pruned already, or backed up. Let that come to its end."
            )
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [RUN_LOCK])

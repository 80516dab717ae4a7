"""A backup is made: the database in one snapshot, then every file that this snapshot names.

Bytes are in the store before a row names them, and are never changed; so whatever the snapshot
names is there, unless it is pruned meanwhile. Pruning waits until we are done; if a file is gone
all the same, everything begins anew with a newer snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from django.db import connection, transaction

from hub_site import embedded
from hub_site.backup import manifest, postgres
from hub_site.backup.errors import BackupError, BlobsGone, Damaged
from hub_site.backup.left_out import left_out
from hub_site.backup.manifest import Manifest, Part
from hub_site.backup.telling import Say, Telling
from hub_site.figures import size as file_size
from hub_site.may_idle import may_idle

if TYPE_CHECKING:
    from hub_site.backup.places import Place

TRIES = 3
WAIT_SECONDS = 600.0  # for a run of pruning that is under way
ROOM = 64 << 20  # beside the files themselves


@dataclass
class Made:
    """What a backup came to."""

    manifest: Manifest
    copied: int = 0
    copied_bytes: int = 0
    verified: int = 0
    forgotten: int = 0


@dataclass
class _Named:
    """What the snapshot says: files to have, and those whose bytes only the Hub keeps."""

    count: int
    total: int
    on_hub: set[str] = field(default_factory=set)


def make(
    place: Place, *, say: Say, verify: bool = False, despite_missing: bool = False, keep: int = 7
) -> Made:
    """Raises BackupError; what was in the place before is whole whenever that happens."""
    with place.adding(), _nothing_pruned(say):
        for tries in range(1, TRIES + 1):
            try:
                made = _make(place, say, verify, despite_missing)
                break
            except BlobsGone as gone:
                if tries == TRIES:
                    raise
                say(f"{gone.user_message} Beginning again with a newer snapshot.")
        old, files = place.forget_all_but(keep)
        if old:
            say(f"{old} older backups went, and {files} files that only they named.")
        made.forgotten = old
    return made


def _make(place: Place, say: Say, verify: bool, despite_missing: bool) -> Made:
    started = datetime.now(UTC)
    name = started.strftime("%Y-%m-%dT%H-%M-%S.%fZ")
    with place.drafting(name) as draft:
        say("Taking a snapshot of the database ...")
        with _snapshot() as snapshot:
            dumped_by = postgres.dump(snapshot, draft / manifest.DUMP, say)
            named = _named(draft / manifest.LIST)
            tables, migrations, others = _tables(), _migrations(), left_out()
        made = Made(
            Manifest(
                name=name,
                made_at=started.isoformat(timespec="seconds"),
                site=_site(),
                postgres=postgres.server_version(),
                dumped_by=dumped_by,
                migrations=migrations,
                tables=tables,
                dump=manifest.part_of(draft / manifest.DUMP),
                blob_list=manifest.part_of(draft / manifest.LIST),
                blobs=named.count,
                blob_bytes=named.total,
                elsewhere={},
                missing={},
                left_out=others,
            )
        )
        _bring_files(place, draft / manifest.LIST, named, made, say, verify, despite_missing)
        place.finish(draft, made.manifest)
    return made


# --- the database ------------------------------------------------------------------------------


@contextmanager
def _snapshot() -> Iterator[str]:
    """One state of the database, for pg_dump and for our own queries inside."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # We only hold it while pg_dump reads, for hours perhaps, and hold no row.
        may_idle(0)
        cursor.execute("SELECT pg_export_snapshot()")
        yield cursor.fetchone()[0]


def _named(path: Path) -> _Named:
    from modules.models import Blob, BlobOnHub, HubHome

    rows = Blob.objects.order_by("pk").values_list("sha256", "size")
    count, total = manifest.write_list(path, rows.iterator(chunk_size=5_000))
    kept = BlobOnHub.objects.filter(home__place=HubHome.SITE).exclude(home__repo=None)
    return _Named(count, total, set(kept.values_list("blob_id", flat=True).iterator()))


def _tables() -> dict[str, int]:
    """How many rows each table has: what a restored site must have, too."""
    found = {}
    with connection.cursor() as cursor:
        for table in sorted(connection.introspection.table_names(cursor)):
            cursor.execute(f"SELECT count(*) FROM {connection.ops.quote_name(table)}")  # noqa: S608
            found[table] = cursor.fetchone()[0]
    return found


def _migrations() -> dict[str, list[str]]:
    from django.db.migrations.recorder import MigrationRecorder

    found: dict[str, list[str]] = {}
    for app, name in sorted(MigrationRecorder(connection).applied_migrations()):
        found.setdefault(app, []).append(name)
    return found


def _site() -> str:
    from django.conf import settings

    return settings.SITE_URL or "LoRA Commons"


# --- the files ---------------------------------------------------------------------------------


@contextmanager
def _nothing_pruned(say: Say) -> Iterator[None]:
    """Hold the lock that a run of pruning holds, on a connection of its own: ours is busy."""
    from modules.storage import pruning

    url = embedded.url_for(connection.settings_dict)
    with psycopg.connect(url, autocommit=True) as held:
        give_up, told = time.monotonic() + WAIT_SECONDS, False
        ask = "SELECT pg_try_advisory_lock(%s)"
        while (row := held.execute(ask, [pruning.RUN_LOCK]).fetchone()) and not row[0]:
            if time.monotonic() > give_up:
                raise BackupError(
                    "The store is being pruned, or backed up to another place, and that does not "
                    "come to its end. Try again later."
                )
            if not told:
                say("The store is being pruned; waiting for that to end ...")
            told = True
            time.sleep(0.5)
        yield


def _bring_files(
    place: Place,
    path: Path,
    named: _Named,
    made: Made,
    say: Say,
    verify: bool,
    despite_missing: bool,
) -> None:
    new = _new(place, path)
    if (needed := new[1] + ROOM) > place.free_bytes():
        raise BackupError(
            f"{new[0]:,} new files have {file_size(new[1])}, and there are "
            f"{file_size(place.free_bytes())} free at {place}; {file_size(needed)} are needed."
        )
    told = Telling(say, "Files", named.count, named.total)
    with path.open("rb") as lines:
        for sha256, size in manifest.read_list(lines):
            if not place.has(sha256, size):
                _bring(place, sha256, size, named, made, despite_missing)
            elif verify:
                with place.blob(sha256) as kept:
                    manifest.check_bytes(f"{sha256} in the backup", kept, Part(size, sha256))
                made.verified += 1
            told.add(size)
    say(str(told))
    if made.manifest.missing and not despite_missing:
        raise _gone(made.manifest.missing)


def _new(place: Place, path: Path) -> tuple[int, int]:
    with path.open("rb") as lines:
        sizes = [size for sha256, size in manifest.read_list(lines) if not place.has(sha256, size)]
    return len(sizes), sum(sizes)


def _bring(
    place: Place, sha256: str, size: int, named: _Named, made: Made, despite_missing: bool
) -> None:
    from modules.storage import local

    try:
        with local.local_path(sha256).open("rb") as file:
            place.put(sha256, size, file)
    except FileNotFoundError:
        lot = made.manifest.elsewhere if sha256 in named.on_hub else made.manifest.missing
        lot[sha256] = size
    except Damaged:
        if not despite_missing:
            raise
        made.manifest.missing[sha256] = size
    else:
        made.copied, made.copied_bytes = made.copied + 1, made.copied_bytes + size


def _gone(missing: dict[str, int]) -> BlobsGone:
    shown = ", ".join(list(missing)[:10]) + (" and more" if len(missing) > 10 else "")
    return BlobsGone(
        f"{len(missing):,} files that the database names are not in the store: {shown}.",
        list(missing),
    )

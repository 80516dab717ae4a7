"""A backup becomes a site again: everything is checked first, files come before the database, and
the database comes in one transaction. A mark in VAR_DIR tells a restore that was cut off from a
site that is whole; running it again goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.management import call_command
from django.db import connection

from hub_site.backup import manifest, postgres
from hub_site.backup.errors import BackupError, Damaged
from hub_site.backup.manifest import Manifest, Part
from hub_site.backup.telling import Say, Telling

if TYPE_CHECKING:
    from hub_site.backup.places import Place

MARK = "restoring.json"
SHOWN = 10


def unfinished(var: Path) -> str | None:
    """The name of the backup whose restore into this folder did not come to its end."""
    try:
        name: str = json.loads((var / MARK).read_text())["name"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):
        return "?"
    return name


def refuse_unfinished(var: Path) -> None:
    """Called before a site starts: half of one must not be taken for whole."""
    if name := unfinished(var):
        raise BackupError(
            f"The restore of the backup {name} into this site did not come to its end. Run the "
            "same manage.py restore again; it goes on from where it was."
        )


# --- the backup itself ---------------------------------------------------------------------------


def check(place: Place, found: Manifest, say: Say) -> None:
    """Every hash, before anything is written. All that is damaged is named."""
    for part, wanted in ((manifest.DUMP, found.dump), (manifest.LIST, found.blob_list)):
        with place.opened(found.name, part) as file:
            manifest.check_bytes(f"{part} of the backup {found.name}", file, wanted)
    told = Telling(say, "Checked", found.blobs, found.blob_bytes)
    damaged = []
    for sha256, size in _kept(place, found):
        try:
            with place.blob(sha256) as file:
                manifest.check_bytes(f"The file {sha256}", file, Part(size, sha256))
        except Damaged as wrong:
            damaged.append(wrong.user_message)
        told.add(size)
    say(str(told))
    if damaged:
        more = f"\n… and {len(damaged) - SHOWN:,} more." if len(damaged) > SHOWN else ""
        raise Damaged(
            f"{len(damaged):,} files of the backup are not what they were, so nothing was "
            "restored:\n" + "\n".join(damaged[:SHOWN]) + more
        )


def _kept(place: Place, found: Manifest) -> Iterator[tuple[str, int]]:
    """The blobs whose bytes are in the backup."""
    absent = found.elsewhere.keys() | found.missing.keys()
    return ((sha256, size) for sha256, size in place.blobs(found.name) if sha256 not in absent)


# --- where it goes -------------------------------------------------------------------------------


def refuse_strange(found: Manifest) -> None:
    """A database of another version of the site, or of PostgreSQL."""
    from django.db.migrations.loader import MigrationLoader

    here = MigrationLoader(None).disk_migrations.keys()
    named = {(app, name) for app, names in found.migrations.items() for name in names}
    apps = {app for app, _ in here}
    if unknown := sorted(f"{app}.{name}" for app, name in named - here if app in apps):
        raise BackupError(
            "This backup was made by a newer version of the site than this one: it has "
            f"{', '.join(unknown[:5])}. Restore it with that version."
        )
    if (server := postgres.server_version()) < found.postgres:
        raise BackupError(
            f"This backup is of PostgreSQL {found.postgres}, and this server is {server}. Restore "
            f"it into version {found.postgres} or newer."
        )


def refuse_data(place: Place, found: Manifest) -> None:
    """Nothing that somebody has may be overwritten or mixed."""
    if tables := _tables():
        raise BackupError(
            f"The database is not empty: it has {len(tables)} tables. Restore into a new one: an "
            "empty database in DATABASE_URL or, for the embedded one, a VAR_DIR that is empty."
        )
    named = {sha256 for sha256, _ in place.blobs(found.name)}
    for path in settings.BLOB_DIR.glob("??/??/*"):
        if len(path.name) == 64 and path.name not in named:
            raise BackupError(
                f"{settings.BLOB_DIR} holds files that are not of this backup, such as {path}. "
                "Restore into a folder of its own: set BLOB_DIR, or move that one away."
            )


def _tables() -> list[str]:
    with connection.cursor() as cursor:
        return connection.introspection.table_names(cursor)


# --- doing it ------------------------------------------------------------------------------------


def restore(place: Place, found: Manifest, *, say: Say) -> None:
    """Into a database that answers. Raises BackupError, before anything is written where it can."""
    begun = unfinished(settings.VAR_DIR)
    if begun not in (None, found.name):
        raise BackupError(
            f"The restore of another backup, {begun}, has begun here. Go on with that one, or "
            "restore into an empty site."
        )
    check(place, found, say)
    refuse_strange(found)
    if begun is None:
        refuse_data(place, found)
    with _marked(found):
        _bring_files(place, found, say)
        if not _tables():  # a restore that was cut off had none or all of it
            say("Loading the database ...")
            with place.dump(found.name) as dump:
                postgres.restore(dump, found.dumped_by, say)
        if not _rows_were_checked():  # migrations change them
            _check_rows(found)
            _write_mark(found.name, rows_checked=True)
        call_command("migrate", verbosity=0, interactive=False)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        verify(found, say)


@contextmanager
def _marked(found: Manifest) -> Iterator[None]:
    """The mark goes when all went well, and stays when it did not."""
    if unfinished(settings.VAR_DIR) is None:
        _write_mark(found.name)
    yield
    (settings.VAR_DIR / MARK).unlink()


def _write_mark(name: str, *, rows_checked: bool = False) -> None:
    half = settings.VAR_DIR / f".{MARK}"
    half.write_text(json.dumps({"name": name, "rows_checked": rows_checked}))
    half.replace(settings.VAR_DIR / MARK)


def _rows_were_checked() -> bool:
    return bool(json.loads((settings.VAR_DIR / MARK).read_text())["rows_checked"])


def _bring_files(place: Place, found: Manifest, say: Say) -> None:
    from modules.storage import local

    told = Telling(say, "Restored", found.blobs, found.blob_bytes)
    for sha256, size in _kept(place, found):
        if not _is_whole(sha256, size):
            with place.blob(sha256) as file:
                local.put(file, sha256, limit=size)
        told.add(size)
    say(str(told))


def _is_whole(sha256: str, size: int) -> bool:
    """What a restore that was cut off had brought."""
    from modules.storage import local

    try:
        with local.local_path(sha256).open("rb") as file:
            return manifest.copy(file, None) == (sha256, size)
    except FileNotFoundError:
        return False


def _is_there(sha256: str, size: int) -> bool:
    from modules.storage import local

    try:
        return local.local_path(sha256).stat().st_size == size
    except FileNotFoundError:
        return False


def _check_rows(found: Manifest) -> None:
    quote = connection.ops.quote_name
    wrong = []
    with connection.cursor() as cursor:
        for table, count in found.tables.items():
            cursor.execute(f"SELECT count(*) FROM {quote(table)}")  # noqa: S608
            if (here := cursor.fetchone()[0]) != count:
                wrong.append(f"{table} has {here:,} rows instead of {count:,}")
    if wrong:
        raise BackupError(f"The database is not what was backed up: {'; '.join(wrong)}.")


def verify(found: Manifest, say: Say) -> None:
    """Every file that a version or a recipe names is in the store, in its right size."""
    from composer.models import Recipe
    from modules.models import Blob, CommitFile

    absent = found.elsewhere.keys() | found.missing.keys()
    named = Blob.objects.order_by("pk").values_list("sha256", "size")
    wrong = [
        sha256
        for sha256, size in named.iterator(chunk_size=5_000)
        if sha256 not in absent and not _is_there(sha256, size)
    ]
    if wrong:
        raise BackupError(f"{len(wrong):,} files are not in the store: {', '.join(wrong[:SHOWN])}.")
    files, adapters = CommitFile.objects.count(), Recipe.objects.exclude(adapter=None).count()
    say(
        f"Every file is there, with the size that the database says: {files:,} paths of versions "
        f"and {adapters:,} adapters of recipes, in {found.blobs - len(absent):,} files."
    )

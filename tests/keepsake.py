"""What was made in the database and the store once, put back for every test that wants it.

The rows keep their ids: a sequence never goes back, so nobody else has drawn them.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.test import override_settings


@dataclass(frozen=True)
class Keepsake:
    """Lines of PostgreSQL's COPY for each table, and a folder with what the store held."""

    rows: dict[str, bytes]
    folder: Path

    def put_back(self) -> None:
        """Into the database, and the folders that the settings name now."""
        with transaction.atomic(), connection.cursor() as cursor:
            for table, lines in self.rows.items():
                with cursor.copy(f'COPY "{table}" FROM STDIN') as copy:
                    copy.write(lines)
        shutil.copytree(self.folder / "blobs", settings.BLOB_DIR, dirs_exist_ok=True)
        shutil.copytree(self.folder / "cache", settings.CACHE_DIR, dirs_exist_ok=True)


def keep(folder: Path, make: Callable[[], object]) -> Keepsake:
    """Make it once, in a transaction that is rolled back."""
    with _store_in(folder), transaction.atomic():
        before = all_rows()
        make()
        rows = {table: lines - before[table] for table, lines in all_rows().items()}
        transaction.set_rollback(True)
    return Keepsake({table: b"".join(lines) for table, lines in rows.items() if lines}, folder)


@contextmanager
def _store_in(folder: Path) -> Iterator[None]:
    for name in ("blobs", "cache"):
        (folder / name).mkdir()
    with override_settings(BLOB_DIR=folder / "blobs", CACHE_DIR=folder / "cache"):
        yield


def all_rows() -> dict[str, set[bytes]]:
    """Every row of every table, as PostgreSQL's COPY writes it."""
    found = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            with cursor.copy(f'COPY "{table}" TO STDOUT') as copy:
                found[table] = {bytes(line) for line in copy}
    return found

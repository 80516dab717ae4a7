"""What a new version or an empty database needs before the site starts.

Machines that start together do this one after the other: the second finds it done.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from hub_site.backup.errors import BackupError
from hub_site.backup.restoring import refuse_unfinished
from hub_site.env import env_bool

PREPARING = 0x10A_F125  # an advisory lock of the database


class Command(BaseCommand):
    help = "Migrates, makes the moderators' group, collects static files, loads the demo library."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            refuse_unfinished(settings.VAR_DIR)
        except BackupError as error:
            raise CommandError(error.user_message) from error
        with alone(self.say):
            self.prepare()

    def prepare(self) -> None:
        from modules.community import moderation

        # Where TMPDIR points to in a container, and uploads come in.
        settings.FILE_UPLOAD_TEMP_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        call_command("migrate", verbosity=0, interactive=False)
        moderation.prepare_group()
        collect_static_files(settings.VAR_DIR / "static-stamp")
        if "load_demo" in get_commands() and env_bool("DEMO", True):
            try:
                call_command("load_demo")
            except CommandError as error:  # the site is whole without its demo
                self.stderr.write(f"The demo library is not loaded. {error}")

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


@contextmanager
def alone(say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock of the database, on a connection of its own that ends however we do."""
    holder = connection.copy()
    try:
        with holder.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", [PREPARING])
            if not cursor.fetchone()[0]:
                say("Another process is preparing this database. Waiting for it ...")
                cursor.execute("SELECT pg_advisory_lock(%s)", [PREPARING])
        yield
    finally:
        holder.close()


def collect_static_files(stamp: Path) -> None:
    """Hashing and compressing takes seconds, so only when a file changed."""
    digest = hashlib.sha256(f"{django.VERSION} {settings.STORAGES['staticfiles']}".encode())
    for finder in get_finders():
        for path, storage in finder.list(ignore_patterns=None):
            found = Path(storage.path(path)).stat()
            digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    known = stamp.read_text() if stamp.exists() else ""
    if known == digest.hexdigest() and Path(settings.STATIC_ROOT).is_dir():
        return
    stamp.unlink(missing_ok=True)
    call_command("collectstatic", verbosity=0, interactive=False)
    stamp.write_text(digest.hexdigest())

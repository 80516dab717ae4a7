"""What a new version or an empty database needs before the site starts."""

import hashlib
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError

from hub_site.env import env_bool


class Command(BaseCommand):
    help = "Migrates, makes the moderators' group, collects static files, loads the demo library."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        from modules.community import moderation

        Path(settings.FILE_UPLOAD_TEMP_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
        call_command("migrate", verbosity=0, interactive=False)
        moderation.prepare_group()
        collect_static_files(settings.VAR_DIR / "static-stamp")
        if "load_demo" in get_commands() and env_bool("DEMO", True):
            try:
                call_command("load_demo")
            except CommandError as error:  # the site is whole without its demo
                self.stderr.write(f"The demo library is not loaded. {error}")


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

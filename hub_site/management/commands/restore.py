"""The way back from a backup, into an empty site: `docs/operations.md` has the routine."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from composer.engine.errors import CommonsError
from hub_site.backup import places, restoring
from hub_site.backup.errors import BackupError
from hub_site.backup.left_out import lacking
from hub_site.management.commands.serve import database_running, only_instance


class Command(BaseCommand):
    help = (
        "Checks every hash of a backup and restores it into an empty database and an empty store. "
        "A restore that was cut off goes on when it is run again."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("place", metavar="FOLDER_OR_FILE")
        parser.add_argument("--backup", help="which one of the folder; the newest when left out")
        parser.add_argument(
            "--check", action="store_true", help="check every hash, and restore nothing"
        )

    def handle(self, *, place: str, backup: str | None, check: bool, **rest: Any) -> None:
        try:
            source = places.whole(place)
            name = self.chosen(source.names(), backup)
            found = source.manifest(name)
            self.say(f"The backup {name} of {found.site}, made at {found.made_at}.")
            if check:
                restoring.check(source, found, self.say)
                self.say("Everything in it is what it was.")
                return
            with only_instance(settings.VAR_DIR), database_running(alone=True):
                restoring.restore(source, found, say=self.say)
                missing = lacking()
        except CommonsError as error:
            raise CommandError(error.user_message) from error
        self.say("The site is restored. Not in the backup, and needed with it:")
        for line in found.left_out:
            self.say(f"  - {line}")
        if found.elsewhere:
            self.say(f"  - {len(found.elsewhere):,} files that the Hub alone keeps, by HF_TOKEN.")
        for sha256 in found.missing:
            self.stderr.write(f"It was missing when the backup was made, too: {sha256}")
        for line in missing:
            self.stderr.write(line)

    def chosen(self, names: list[str], wanted: str | None) -> str:
        if wanted is None:
            return names[-1]
        if wanted not in names:
            raise BackupError(f"There is no whole backup {wanted!r} here, but {', '.join(names)}.")
        return wanted

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

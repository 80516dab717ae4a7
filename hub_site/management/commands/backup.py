"""One command keeps the whole site: `docs/operations.md` has the routine."""

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from composer.engine.errors import CommonsError
from hub_site.backup import making, places
from hub_site.figures import size
from hub_site.management.commands.serve import database_running


class Command(BaseCommand):
    help = (
        "Copies the database and every stored file to a folder, or to a file that ends in .tar, "
        "while the site runs. Again into the same folder, only new files are copied. Ends with "
        "code 0 only when the backup is whole."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("place", metavar="FOLDER_OR_FILE")
        parser.add_argument(
            "--verify", action="store_true", help="read and hash the files that were there before"
        )
        parser.add_argument(
            "--keep", type=int, default=7, help="how many backups the folder keeps (7)"
        )
        parser.add_argument(
            "--despite-missing",
            action="store_true",
            help="make it although files are missing or damaged in the store, and name them",
        )

    def handle(
        self, *, place: str, verify: bool, keep: int, despite_missing: bool, **rest: Any
    ) -> None:
        if keep < 1:
            raise CommandError("--keep must be 1 or more.")
        os.umask(0o077)  # it holds everybody's data
        try:
            with database_running():
                made = making.make(
                    places.place(place),
                    say=self.say,
                    verify=verify,
                    despite_missing=despite_missing,
                    keep=keep,
                )
        except CommonsError as error:
            raise CommandError(error.user_message) from error
        self.tell(made, place)

    def tell(self, made: making.Made, place: str) -> None:
        found = made.manifest
        verified = f", {made.verified:,} hashed again" if made.verified else ""
        self.say(
            f"The backup {found.name} in {place} is whole: a dump of {size(found.dump.size)}, "
            f"{found.blobs:,} files ({made.copied:,} new, {size(made.copied_bytes)}{verified})."
        )
        if found.elsewhere:
            far = size(sum(found.elsewhere.values()))
            self.say(
                f"{len(found.elsewhere):,} files ({far}) are on the Hub alone: a restored site "
                "fetches them from there, with the site's own HF_TOKEN."
            )
        for sha256 in found.missing:
            self.stderr.write(f"Not in the backup, because the store has it not: {sha256}")
        self.say("Not in it, and needed with it:")
        for line in found.left_out:
            self.say(f"  - {line}")

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

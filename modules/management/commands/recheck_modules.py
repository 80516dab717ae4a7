"""Check modules again, after a rule changed: `manage.py recheck_modules [OWNER/NAME ...]`."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from modules.checks import checking
from modules.models import LoraModule


class Command(BaseCommand):
    help = (
        "Puts a check of every module, or of those named, in the workers' queue, behind everything "
        "that people wait for. A module that is ready stays so until its check says otherwise."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="owner/name")
        parser.add_argument(
            "--rejected", action="store_true", help="only those that were rejected before"
        )

        parser.add_argument(
            "--unfinished", action="store_true", help="only those whose last check died"
        )

    def handle(self, *, names: list[str], rejected: bool, unfinished: bool, **rest: Any) -> None:
        modules = checking.unfinished() if unfinished else LoraModule.objects.all()
        modules = modules.select_related("commit", "base_model").order_by("pk")
        if rejected:
            modules = modules.filter(status=LoraModule.REJECTED)
        if names:
            modules = modules.filter(pk__in=[self.find(name).pk for name in names])
        count = 0
        for module in modules.iterator(chunk_size=500):
            checking.recheck(module)
            count += 1
        self.stdout.write(f"{count:,} modules will be checked again.")

    def find(self, name: str) -> LoraModule:
        owner, _, rest = name.partition("/")
        module = LoraModule.objects.named(owner, rest).first()
        if module is None:
            raise CommandError(f"There is no module {name!r}. Write owner/name.")
        return module

"""manage.py prune_guests: forget guests who made nothing for GUEST_DAYS days."""

from typing import Any

from django.core.management.base import BaseCommand

from hub_site.accounts import guests


class Command(BaseCommand):
    help = "Delete guests who made nothing for GUEST_DAYS days, with their tasks and jobs."

    def handle(self, **options: Any) -> None:
        count = guests.prune()
        self.stdout.write(f"Forgot {count} guest{'' if count == 1 else 's'}.")

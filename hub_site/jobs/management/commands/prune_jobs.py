from typing import Any

from django.core.management.base import BaseCommand

from hub_site.jobs import retention


class Command(BaseCommand):
    help = (
        "Thins the events of jobs that ended KEEP_EVENTS_DAYS ago, and deletes the site's own jobs "
        "and those whose result stands elsewhere. The workers do this every day by themselves."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        done = retention.prune()
        self.stdout.write(f"{done.events:,} events and {done.jobs:,} jobs were deleted.")

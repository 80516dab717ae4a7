from typing import Any

from django.core.management.base import BaseCommand

from composer import retention


class Command(BaseCommand):
    help = (
        "Drops the checkpoints of searches that ended KEEP_CHECKPOINTS_DAYS ago; their pages, loss "
        "curves and recipes stay. The workers do this every day by themselves."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        count, _ = retention.thin()
        self.stdout.write(f"{count:,} generations were thinned.")

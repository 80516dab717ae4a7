from typing import Any

from django.core.management.base import BaseCommand, CommandError

from composer.engine.errors import CommonsError
from hub_site.figures import size
from modules.storage import pruning


class Command(BaseCommand):
    help = (
        "Deletes stored files that no version and no recipe refers to, what killed uploads left, "
        "and what nobody needs in CACHE_DIR and VAR_DIR/tmp, when it is older than a day. The "
        "workers do this every day by themselves."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = pruning.prune()
        except CommonsError as error:
            raise CommandError(error.user_message) from error
        self.stdout.write(
            f"{done.blobs} files ({size(done.size)}), {done.leftovers} leftovers of uploads and "
            f"{done.folders} unpacked versions were deleted; {done.evicted} files are on the Hub "
            f"alone now. {done.cached} things in the cache and {done.temporary} temporary files "
            "belonged to nobody any more."
        )

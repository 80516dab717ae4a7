"""Take LoRA modules from the Hub: `manage.py import_modules lorahub --search flan_t5_large`."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from tqdm import tqdm

from composer.engine.errors import CommonsError
from hub_site.figures import size
from modules.importing import addresses, many, presets
from modules.importing.addresses import Address
from modules.importing.many import Importer, Result
from modules.storage.hub import Hub

INTERRUPTED = 130
STOPPING = "Stopping: what is on its way ends first, or is let go. Ctrl-C again ends at once.\n"
WORDS = {
    many.NEW: "imported",
    many.VERSION: "new version",
    many.SAME: "unchanged",
    many.REFUSED: "refused",
    many.FAILED: "failed",
    many.STOPPED: "not tried",
}
WRONG = (many.REFUSED, many.FAILED, many.STOPPED)


class Command(BaseCommand):
    help = (
        "Imports LoRA modules from HUB_ENDPOINT into an organisation named like their author "
        "there. A second run takes only what is new. HF_TOKEN, where set, says who asks."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "what", nargs="*", metavar="AUTHOR or OWNER/NAME", help="all of an author's, or one"
        )
        parser.add_argument("--search", default="", help="only those with these words in the name")
        parser.add_argument("--preset", choices=sorted(presets.BY_NAME), help=_preset_help())
        parser.add_argument("--owner", default="", help="another organisation to put them under")
        parser.add_argument("--limit", type=int, help="not more than so many")
        parser.add_argument("--jobs", type=int, default=2, help="so many side by side (2)")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, *, what: list[str], jobs: int, dry_run: bool, **options: Any) -> None:
        if not what and not options["preset"]:
            raise CommandError("Name an author or repos (owner/name), or take a --preset.")
        try:
            hub = Hub(settings.HF_TOKEN)
            wanted = self.wanted(hub, what, **options)
        except CommonsError as error:
            raise CommandError(error.user_message) from error
        if not wanted:
            raise CommandError(f"{addresses.site_of_hub()} shows no repo that fits.")
        importer = Importer(hub, owner=options["owner"], dry_run=dry_run)
        self.summary(*self.bring(importer, wanted, max(1, jobs), dry_run), dry_run=dry_run)

    def wanted(
        self, hub: Hub, what: list[str], *, search: str, preset: str | None, limit: int | None,
        **rest: Any,
    ) -> list[Address]:  # fmt: skip
        found: dict[str, Address] = {}
        for address in islice(self.named(hub, what, search, preset), limit):
            found.setdefault(address.hub_id.lower(), address)
        return list(found.values())

    def named(
        self, hub: Hub, what: list[str], search: str, preset: str | None
    ) -> Iterator[Address]:
        if preset:
            chosen = presets.BY_NAME[preset]
            for hub_id in hub.names(author=chosen.author, search=search or chosen.search):
                yield addresses.parse(hub_id)
        for each in what:
            if "/" in each:
                yield addresses.parse(each)
            else:
                for hub_id in hub.names(author=each, search=search):
                    yield addresses.parse(hub_id)

    def bring(
        self, importer: Importer, wanted: list[Address], jobs: int, dry_run: bool
    ) -> tuple[list[Result], bool]:
        """Every result, and whether somebody pressed Ctrl-C."""
        results: list[Result] = []
        with (
            stopped_by_ctrl_c(importer.stop) as was_interrupted,
            tqdm(total=len(wanted), unit="module", disable=None, leave=False) as bar,
            closing(importer.bring_all(wanted, jobs)) as coming,
        ):
            for result in coming:
                if was_interrupted() and result.outcome == many.STOPPED:
                    continue
                results.append(result)
                with tqdm.external_write_mode():
                    self.stdout.write(self.line(result, dry_run))
                bar.update()
        return results, was_interrupted()

    def line(self, result: Result, dry_run: bool) -> str:
        words = [WORDS[result.outcome], f"{result.address}"]
        if result.plan is not None and result.outcome != many.SAME:
            words.append(f"({size(result.plan.size)}{', pickle' if result.plan.converts else ''})")
            words.append(f"as {result.name}")
        line = f"{'would be ' if dry_run and result.plan else ''}{' '.join(words)}"
        # Why something did not come stands below, where nothing runs past it.
        return line if result.outcome in WRONG or not result.reason else f"{line}. {result.reason}"

    def summary(self, results: list[Result], interrupted: bool, *, dry_run: bool) -> None:
        counts = Counter(result.outcome for result in results)
        total = ", ".join(
            f"{counts[name]} {words}" for name, words in WORDS.items() if counts[name]
        )
        self.stdout.write(f"{'Dry run: ' if dry_run else ''}{total or 'nothing was done'}.")
        wrong = [result for result in results if result.outcome in WRONG]
        for result in wrong:
            self.stdout.write(f"  {WORDS[result.outcome]} {result.address}: {result.reason}")
        if interrupted:
            raise CommandError(
                "Interrupted. Nothing is half imported; the same command goes on.",
                returncode=INTERRUPTED,
            )
        if not dry_run and counts[many.NEW] + counts[many.VERSION]:
            self.stdout.write("The workers read their files in full now, as after an upload.")
        if wrong:
            raise CommandError(f"{len(wrong)} of {len(results)} did not come.")


@contextmanager
def stopped_by_ctrl_c(stop: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop, whatever the program does just then; a second one ends it.

    As an exception it could come up between two lines that have to belong together, and be lost.
    """
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        stop()
        os.write(2, STOPPING.encode())  # a stream may be in the middle of something

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _preset_help() -> str:
    return "; ".join(
        f"{preset.name}: {preset.author}, {preset.about} ({preset.base_model})"
        for preset in presets.PRESETS
    )

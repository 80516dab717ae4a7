"""Bytes wherever they are: in the site's store, or in a repo of the site's on the Hub.

Only what the Hub was seen to hold leaves the store (`pruning.py`), and whatever needs it again
gets it through here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from modules.models import BlobOnHub, HubHome
from modules.storage import local
from modules.storage.part import Part

if TYPE_CHECKING:
    from modules.models import Commit


def is_here(sha256: str) -> bool:
    return local.local_path(sha256).exists()


def place_of(sha256: str) -> BlobOnHub | None:
    """Where the Hub has these bytes in a repo that belongs to the site."""
    rows = BlobOnHub.objects.filter(blob=sha256, home__place=HubHome.SITE).exclude(home__repo=None)
    return rows.select_related("home").order_by("pk").first()


def path_of(sha256: str) -> Path:
    """The bytes as a file of the store, fetched from the Hub first where they are only there."""
    path = local.local_path(sha256)
    if not path.exists() and (there := place_of(sha256)) is not None:
        fetch(there)
    return path


def chunks(sha256: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Like `local.open`; what only the Hub has is passed on as it comes. Says at once, before the
    first chunk is asked for, when the bytes are nowhere."""
    if not is_here(sha256) and (there := place_of(sha256)) is not None:
        return _passed_on(there, start, end)
    return local.open(sha256, start, end)


def part(sha256: str, start: int, end: int, when_whole: Callable[[], None] | None) -> Part | None:
    """The same bytes as a file of the store; None when they are on the Hub only."""
    if not is_here(sha256) and place_of(sha256) is not None:
        return None
    return Part(sha256, start, end, when_whole)


def materialise(commit: Commit) -> Path:
    """A folder with the commit's files: see `local.materialise`."""
    for sha256 in commit.files.values_list("blob_id", flat=True):
        path_of(sha256)
    return local.materialise(commit)


def address_of(sha256: str) -> str | None:
    """Where else these bytes can be had by whoever may have them, when they are not here."""
    if is_here(sha256) or (there := place_of(sha256)) is None:
        return None
    from modules.storage import hub

    return hub.Hub(settings.HF_TOKEN).address(there.home.hub_id, there.sha, there.path)


def fetch(there: BlobOnHub) -> None:
    """Have these bytes in the store, from this very place on the Hub."""
    from modules.storage import hub

    with local.told_when_full():
        settings.CACHE_DIR.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.CACHE_DIR, prefix="fetching-") as folder:
            here = hub.Hub(settings.HF_TOKEN).download(
                there.home.hub_id, there.sha, there.path, Path(folder)
            )
            with here.open("rb") as file:
                local.put(file, there.blob_id, limit=here.stat().st_size)


def _passed_on(there: BlobOnHub, start: int, end: int | None) -> Iterator[bytes]:
    from modules.storage import hub

    answer = ExitStack()
    site = hub.Hub(settings.HF_TOKEN)
    stream = answer.enter_context(site.opened(there.home.hub_id, there.sha, there.path, start, end))

    def passing() -> Iterator[bytes]:
        with answer:
            yield from stream

    return passing()

"""Downloads: once per user or address, version and day. See also `trending.py`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import Error, IntegrityError, connection, transaction
from django.utils import timezone

from hub_site.addresses import address_of, visitor_hash
from modules.models import Commit, Download

if TYPE_CHECKING:
    from django.http import HttpRequest

    from modules.querysets import Visitor

logger = logging.getLogger(__name__)

DAYS_KEPT = 30
PATIENCE = "1s"  # a download does not wait longer than this for somebody who holds the repo's row

# One statement: whoever's row goes in raises both counts, and a second one raises none. The repo's
# row before its module's, as everywhere.
COUNT = """
WITH new AS (
    INSERT INTO modules_download (repo_id, commit_id, day, visitor)
    VALUES (%(repo)s, %(commit)s, %(day)s, %(visitor)s)
    ON CONFLICT DO NOTHING
    RETURNING repo_id
), counted AS (
    UPDATE modules_repo SET downloads = downloads + 1
    FROM new WHERE modules_repo.id = new.repo_id
    RETURNING modules_repo.id
)
UPDATE modules_loramodule SET downloads = downloads + 1
FROM counted WHERE modules_loramodule.repo_id = counted.id
"""


def when_read(
    chunks: Iterable[bytes], request: HttpRequest, user: Visitor, commit: Commit
) -> Iterator[bytes]:
    """The same bytes; the download counts when the last one was taken, and not before."""
    yield from chunks
    count_download(commit, user, address_of(request))


def count_download(commit: Commit, user: Visitor, address: str) -> None:
    """Never raises: a download that could not be counted is still a download."""
    day = timezone.now().date()
    known = None if getattr(user, "is_guest", False) else user  # a new guest is one click away
    values = {
        "repo": commit.repo_id,
        "commit": commit.pk,
        "day": day,
        "visitor": visitor_hash("modules.download", known, address, day),
    }
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [PATIENCE])
            cursor.execute(COUNT, values)
    except IntegrityError:
        logger.info("Commit %s was deleted while it was downloaded: not counted", commit.pk)
    except Error:
        logger.exception("A download of commit %s was not counted", commit.pk)


def prune_downloads() -> int:
    """Forget who fetched what before the last month; the counts stay."""
    oldest = timezone.now().date() - timedelta(days=DAYS_KEPT)
    return Download.objects.filter(day__lt=oldest).delete()[0]

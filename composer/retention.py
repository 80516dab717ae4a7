"""What is kept no longer than it is of use.

Checkpoints of searches that ended long ago: nothing goes on from them any more.
The loss curve, its figures and the best weights stay for the page; recipes and evidence, which
show that a search can be run again to the same bits, are other rows and not touched.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.utils import timezone

from composer.models import ExampleScores
from hub_site.jobs import queue, retention

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease

BATCH = 200
# Of the last generation only: it is the one whose blend is drawn.
THIN = """
    UPDATE composer_generation AS generation
    SET record = CASE WHEN generation.round = '' AND generation.number = last.number
        THEN jsonb_build_object(
            'best_weights', record->'best_weights', 'digest', record->'digest')
        ELSE '{}'::jsonb END
    FROM (SELECT search_id, max(number) AS number FROM composer_generation
          WHERE search_id = ANY(%s) AND round = '' GROUP BY search_id) AS last
    JOIN jobs_job ON jobs_job.id = last.search_id
    WHERE generation.search_id = last.search_id AND jsonb_exists(record, 'losses')
      AND jobs_job.state IN ('done', 'failed', 'cancelled')
"""


def thin(since: datetime | None = None) -> tuple[int, datetime]:
    """How many generations were thinned, and up to which end of their jobs."""
    until = timezone.now() - timedelta(days=settings.KEEP_CHECKPOINTS_DAYS)
    jobs = retention.over(since, until).filter(search__isnull=False)
    return sum(_thin(pks) for pks in retention.batches(jobs, BATCH)), until


def thin_searches(job: Job, lease: Lease) -> None:
    """The same as a worker's job."""
    count, until = thin(retention.last_until(job.kind))
    with queue.finish(job, {"thinned": count, "until": until.isoformat()}):
        pass


def _thin(searches: tuple[UUID, ...]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(THIN, [list(searches)])
        return int(cursor.rowcount)


# --- the score matrix --------------------------------------------------------------------------


def forget_scores(job: Job, lease: Lease) -> None:
    """Scores that nobody has asked for in a long time: whoever ranks again measures again."""
    since = timezone.now() - timedelta(days=settings.KEEP_SCORES_DAYS)
    count, _ = ExampleScores.objects.filter(used_at__lt=since).delete()
    with queue.finish(job, {"forgotten": count}):
        pass

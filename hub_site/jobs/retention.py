"""What is forgotten of jobs that ended long ago: never of one that waits or runs.

A job goes through these once: the next run begins where the last one stopped, by the time at which
jobs ended. Running all of it again does no harm, and finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from django.conf import settings
from django.db.models import Max, Min, Q, QuerySet
from django.utils import timezone

from hub_site.jobs import schedule
from hub_site.jobs.models import OVER, Job, JobEvent
from hub_site.jobs.queue import GIVING_WAY

BATCH = 500
# What somebody may ask about a job of long ago: when it came and ended, and what went wrong.
TELLING = (
    *("submitted", "done", "failed", "cancelled", "cancel requested"),
    *("lost", "struck", "released", "restarted", "matched"),
)

_on_the_side: set[str] = set()


@dataclass(frozen=True)
class Forgotten:
    jobs: int
    events: int
    until: datetime


def on_the_side(*kinds: str) -> None:
    """Apps say in `AppConfig.ready` which kinds of jobs leave what they found elsewhere, so that
    the job itself may go."""
    _on_the_side.update(kinds)


def prune(since: datetime | None = None) -> Forgotten:
    """Events of jobs that ended after `since` are thinned, and jobs that nobody asks for go."""
    until = timezone.now() - timedelta(days=settings.KEEP_EVENTS_DAYS)
    events = sum(_thin(pks) for pks in batches(over(since, until), BATCH))
    return Forgotten(schedule.prune_jobs() + _forget_side_jobs(), events, until)


def over(since: datetime | None, until: datetime) -> QuerySet[Job]:
    """Jobs that ended in that time, for good: none of them is ever taken up again."""
    found = Job.objects.filter(state__in=OVER, finished_at__lt=until)
    return found if since is None else found.filter(finished_at__gte=since)


def last_until(kind: str) -> datetime | None:
    """How far the last job of this kind came; None when that is not known."""
    last = Job.objects.filter(kind=kind, state="done").order_by("-finished_at").first()
    said = last.result.get("until") if last else None
    return datetime.fromisoformat(said) if said else None


def batches(jobs: QuerySet[Job], size: int) -> Iterator[tuple[UUID, ...]]:
    rows = jobs.order_by().values_list("pk", flat=True).iterator(chunk_size=5_000)
    while batch := tuple(islice(rows, size)):
        yield batch


def _thin(pks: tuple[UUID, ...]) -> int:
    """All but the first and the last event, and what tells of trouble."""
    events = JobEvent.objects.filter(job__in=pks, job__state__in=OVER)
    ends = events.order_by().values("job").annotate(first=Min("pk"), last=Max("pk"))
    kept = {pk for row in ends for pk in (row["first"], row["last"])}
    stepped_aside = Q(name="released", detail__reason=GIVING_WAY)
    thinned = events.exclude(pk__in=kept).filter(~Q(name__in=TELLING) | stepped_aside)
    return thinned.delete()[0]


def _forget_side_jobs() -> int:
    before = timezone.now() - timedelta(days=settings.KEEP_SIDE_JOBS_DAYS)
    old = Job.objects.filter(kind__in=_on_the_side, state__in=OVER, finished_at__lt=before)
    count = 0
    for pks in batches(old, BATCH):
        gone = Job.objects.filter(pk__in=pks, state__in=OVER).delete()[1]
        count += gone.get("jobs.Job", 0)
    return count

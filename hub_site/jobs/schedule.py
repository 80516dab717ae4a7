"""Jobs that come again and again. Every worker looks; the database lets one of them submit.

There is no clock of our own that could be down: when no worker runs, nothing is due for anybody,
and after days without one each job runs once, not once for every time that was missed.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.db.models.functions import Now

from hub_site.jobs import queue
from hub_site.jobs.models import OVER, Job, ScheduledJob

KEPT = timedelta(days=7)

_every: dict[str, timedelta] = {}


def every(period: timedelta, kind: str) -> None:
    """Apps say in `AppConfig.ready` which of their kinds of jobs come again, and how often."""
    _every[kind] = period


def submit_due() -> list[Job]:
    """Submit what is due. Any number of workers may ask at once: each job is submitted once."""
    is_due = ExpressionWrapper(Q(next_at__lte=Now()), output_field=BooleanField())
    known = dict(ScheduledJob.objects.values_list("kind", is_due))
    new = sorted(_every.keys() - known.keys())
    if new:
        rows = [ScheduledJob(kind=kind) for kind in new]
        ScheduledJob.objects.bulk_create(rows, ignore_conflicts=True)
    due = [kind for kind in _every if known.get(kind, True)]
    return [job for kind in due if (job := _submit(kind, _every[kind]))]


def _submit(kind: str, period: timedelta) -> Job | None:
    """The UPDATE is the decision: of two workers, the second finds the time already moved on."""
    with transaction.atomic():
        due = ScheduledJob.objects.filter(kind=kind, next_at__lte=Now())
        if not due.update(next_at=Now() + period):
            return None
        if Job.objects.filter(kind=kind, user=None).exclude(state__in=OVER).exists():
            return None  # the last one is not done yet
        return queue.submit(kind, params={})


def prune_jobs() -> int:
    """Forget the site's own jobs that ended more than a week ago. People's jobs stay."""
    old = Job.objects.filter(
        user=None, kind__in=list(_every), state__in=OVER, finished_at__lt=Now() - KEPT
    )
    return old.delete()[1].get("jobs.Job", 0)

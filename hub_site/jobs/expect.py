"""When a waiting job may start, guessed from how long the last ones of its kind took.

A guess for people to plan by: it knows nothing of jobs to come, and takes every job that waits for
as long as the one asked about.
"""

from __future__ import annotations

from heapq import heapify, heapreplace
from typing import TYPE_CHECKING

from django.db.models import F
from django.utils import timezone

from hub_site.jobs import capacity
from hub_site.jobs.models import Job
from hub_site.jobs.worker_name import main_name_of

if TYPE_CHECKING:
    from hub_site.accounts.models import User

LOOKED_AT, LOOKED_THROUGH = 20, 200


def seconds_of(job: Job) -> float | None:
    """How long jobs like this one took of late: on what it needs loaded, or else of its kind."""
    done = Job.objects.filter(kind=job.kind, state="done", started_at__isnull=False)
    last = done.order_by("-finished_at").values_list(
        "needs__warm", "queue", F("finished_at") - F("started_at")
    )
    rows = list(last[:LOOKED_THROUGH])
    alike = [row for row in rows if row[:2] == (job.needs.get("warm"), job.queue)]
    took = [row[2].total_seconds() for row in (alike or rows)[:LOOKED_AT]]
    return sum(took) / len(took) if took else None


def start(job: Job, place: int) -> float | None:
    """Seconds until a job that has this place in the queue starts; None where nothing is known, or
    nobody can do it."""
    there = [each for each in capacity.live_workers() if capacity.can_do(each, job)]
    each = seconds_of(job) if there else None
    if each is None:
        return None
    names = {worker.name for worker in there}
    # A heap of the moments at which a worker becomes free; each takes the next of those that wait.
    free_at = [left_of(other, each) for other in _running_on(names)]
    free_at += [0.0] * (len(there) - len(free_at))
    heapify(free_at)
    for _ in range(place - 1):
        heapreplace(free_at, free_at[0] + each)
    return free_at[0]


def place_free(user: User) -> float | None:
    """Seconds until the first of a user's running jobs ends; None where that is not known."""
    running = Job.objects.filter(user=user, state="running")
    guesses = [left_of(job, usual) for job in running if (usual := seconds_of(job)) is not None]
    return min(guesses, default=None)


def left_of(job: Job, usual: float) -> float:
    """Seconds that a running job has left, if it takes what is usual; at least a moment."""
    began = job.started_at or timezone.now()
    return max(1.0, usual - (timezone.now() - began).total_seconds())


def _running_on(names: set[str]) -> list[Job]:
    running = Job.objects.filter(state="running")
    return [job for job in running if main_name_of(job.owner) in names]

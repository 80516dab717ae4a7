"""What an operator wants to see of jobs and workers: one set of queries for the page, the command
and the metrics.

Each stays small however many jobs have ended: what waits and runs has indexes of its own, and what
has ended is looked at by kind and time.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db.models import Count, Max, Min, QuerySet
from django.utils import timezone

from hub_site.jobs import capacity, registry
from hub_site.jobs.models import OVER, Job, JobEvent, Worker
from hub_site.jobs.worker_name import main_name_of

if TYPE_CHECKING:
    from collections.abc import Iterable

QUEUES = (capacity.CPU, capacity.GPU)
RECENT = timedelta(days=1)
TROUBLE = ("lost", "struck", "failed", "restarted")
# Of the newest events so many are looked at, which is one walk along the table's end.
EVENTS_LOOKED_AT = 50_000


@dataclass(frozen=True)
class QueueLine:
    """One of Celery's two kinds of devices: how much waits for it, and since when."""

    name: str
    waiting: int
    oldest: datetime | None
    running: int
    workers: int

    @property
    def oldest_age(self) -> float | None:
        """Seconds; None when nothing waits."""
        return None if self.oldest is None else _since(self.oldest)


@dataclass(frozen=True)
class LeaseLine:
    """A running job, and how long whoever has it may go on without a sign of life."""

    job: Job
    worker: str
    left: float

    @property
    def is_expired(self) -> bool:
        return self.left <= 0


@dataclass(frozen=True)
class WorkerLine:
    worker: Worker
    is_alive: bool
    leases: list[LeaseLine] = field(default_factory=list)


class Overview:
    """Everything at one moment, each part asked for when it is looked at."""

    @cached_property
    def leases(self) -> list[LeaseLine]:
        """Running jobs, the longest-running first."""
        jobs = Job.objects.filter(state="running").select_related("user").defer("params", "result")
        return [
            LeaseLine(job, main_name_of(job.owner), _until(job.lease_until))
            for job in jobs.order_by("started_at", "pk")
        ]

    @cached_property
    def workers(self) -> list[WorkerLine]:
        """Those that signed on and did not sign off, the silent ones last."""
        lines = [
            WorkerLine(
                worker,
                _since(worker.seen_at) < settings.JOB_LEASE_SECONDS,
                [lease for lease in self.leases if lease.worker == worker.name],
            )
            for worker in Worker.objects.order_by("started_at", "pk")
        ]
        return sorted(lines, key=lambda line: not line.is_alive)

    @cached_property
    def queues(self) -> list[QueueLine]:
        """Each that there is, that is expected, or that something waits for."""
        rows = Job.objects.filter(state="queued").values("queue")
        waits = {row["queue"]: row for row in rows.annotate(n=Count("pk"), since=Min("created_at"))}
        alive = [line.worker for line in self.workers if line.is_alive]
        names = {*QUEUES[:1], *waits, *(n for n in settings.EXPECT_QUEUES if n in QUEUES)}
        names |= {name for worker in alive for name in worker.queues if name in QUEUES}
        return [
            QueueLine(
                name=name,
                waiting=waits[name]["n"] if name in waits else 0,
                oldest=waits[name]["since"] if name in waits else None,
                running=sum(lease.job.queue == name for lease in self.leases),
                workers=sum(name in worker.queues for worker in alive),
            )
            for name in sorted(names)
        ]

    @cached_property
    def waiting(self) -> list[Job]:
        """The first of those that wait, in the order of their coming."""
        jobs = Job.objects.filter(state="queued").select_related("user").defer("params", "result")
        return list(jobs.order_by("-priority", "crashes", "turn", "created_at", "id")[:10])

    @cached_property
    def stuck(self) -> list[tuple[Job, str]]:
        """Those that nobody who is there can do, and why; also behind others that wait. Jobs of one
        kind that need the same are told once."""
        alive = [line.worker for line in self.workers if line.is_alive]
        if not alive:
            return []  # nobody at all is said elsewhere
        alike = ("kind", "queue", "schema", "needs")
        jobs = Job.objects.filter(state="queued").select_related("user").defer("params", "result")
        first = jobs.order_by(*alike, "created_at").distinct(*alike)
        nobodys = (
            job
            for job in first[:1_000]
            if not any(capacity.can_do(worker, job) for worker in alive)
        )
        return [(job, capacity.why_nobody(job)) for job in islice(nobodys, 10)]

    @cached_property
    def events(self) -> list[JobEvent]:
        return newest_events(20)

    @cached_property
    def failures(self) -> list[Job]:
        """Jobs that failed within a day, the newest first."""
        return list(ended(RECENT).filter(state="failed").order_by("-finished_at")[:10])


# --- lists, for the command and for what counts --------------------------------------------------


def jobs(
    *, state: str = "", kind: str = "", user: str = "", pk: uuid.UUID | None = None
) -> QuerySet[Job]:
    """Jobs by what is asked of them, the newest first."""
    found = Job.objects.select_related("user").defer("params", "result").order_by("-created_at")
    wanted: dict[str, Any] = {"state": state, "kind": kind, "user__username__iexact": user}
    if pk is not None:
        wanted["pk"] = pk
    return found.filter(**{name: value for name, value in wanted.items() if value})


def newest_events(
    count: int, *, names: Iterable[str] = (), job: uuid.UUID | None = None
) -> list[JobEvent]:
    """The newest first. With names, only among the last few thousand."""
    found = JobEvent.objects.select_related("job").order_by("-id")
    found = found.defer("job__params", "job__result")
    if job is not None:
        found = found.filter(job=job)
    if names:
        found = found.filter(name__in=names)
        if job is None:
            found = found.filter(pk__gt=_last_events())
    return list(found[:count])


def ended(within: timedelta) -> QuerySet[Job]:
    """Jobs that came to their end of late. By kind, because the index is."""
    found = Job.objects.filter(
        kind__in=registry.kinds(), state__in=OVER, finished_at__gt=timezone.now() - within
    )
    return found.select_related("user").defer("params", "result")


def count_events(within: timedelta, names: Iterable[str]) -> dict[str, int]:
    """How often each happened of late; 0 for what did not."""
    late = JobEvent.objects.filter(pk__gt=_last_events(), at__gt=timezone.now() - within)
    found = late.filter(name__in=names)
    counts = dict(found.order_by().values_list("name").annotate(Count("pk")))
    return {name: counts.get(name, 0) for name in names}


def expired_leases() -> int:
    """Running jobs whose worker has been silent for too long, and that no reaper has seen yet."""
    return Job.objects.filter(state="running", lease_until__lte=timezone.now()).count()


def live_queues() -> set[str]:
    """Every queue that some worker takes jobs from, "store" among them."""
    found = capacity.live_workers().values_list("queues", flat=True)
    return {name for names in found for name in names}


def failure_counts(within: timedelta) -> list[tuple[str, str, int]]:
    """(kind, code, how many) of what failed of late."""
    rows = ended(within).filter(state="failed").order_by()
    counted = rows.values_list("kind", "error_code").annotate(Count("pk"))
    return sorted((kind, code, count) for kind, code, count in counted)


def _last_events() -> int:
    """The id after which the newest events begin: they have no index of time, and need none."""
    return (JobEvent.objects.aggregate(last=Max("pk"))["last"] or 0) - EVENTS_LOOKED_AT


def _since(when: datetime) -> float:
    return (timezone.now() - when).total_seconds()


def _until(when: datetime | None) -> float:
    return 0.0 if when is None else -_since(when)

"""GET /metrics for Prometheus: how the site does, asked of the database when it is scraped.

Nothing is counted in this process, so it does not matter how many there are, or that they come
and go. Labels are words of our own (kinds, states, codes, queues), never anything a user wrote.
Totals that take a walk through a large table are five minutes old at most.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from datetime import timedelta

import django
from django.core.cache import cache
from django.db import connection
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import exposition
from prometheus_client.metrics_core import (
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hub_site import disk
from hub_site.jobs import overview, registry
from hub_site.jobs.models import STATES, Job
from hub_site.version import VERSION
from hub_site.watching import may_watch

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
EVENTS = ("claimed", "done", "failed", "cancelled", "lost", "struck", "released", "restarted")
BUCKETS = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0)
TOTALS_SECONDS = 300
Totals = tuple[dict[tuple[str, str], int], dict[str, int]]


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    if not may_watch(request):
        said = "Send METRICS_TOKEN as a bearer token; without that setting, ask from this machine."
        return HttpResponse(f"{said}\n", status=403, content_type="text/plain")
    encode, kind = exposition.choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(_Site()), content_type=kind)


class _Site(Collector):
    def collect(self) -> Iterator[Metric]:
        yield from _jobs_now()
        yield from _jobs_of_late()
        yield from _totals()
        yield from _machine()


def _jobs_now() -> Iterator[Metric]:
    now = overview.Overview()
    waiting = _gauge("jobs_waiting", "Jobs that wait for a worker.", "queue")
    oldest = _gauge("jobs_waiting_oldest_seconds", "Since when the first of them waits.", "queue")
    running = _gauge("jobs_running", "Jobs that a worker has.", "queue")
    for queue in now.queues:
        waiting.add_metric([queue.name], queue.waiting)
        oldest.add_metric([queue.name], queue.oldest_age or 0.0)
        running.add_metric([queue.name], queue.running)
    yield from (waiting, oldest, running)
    expired = _gauge("leases_expired", "Running jobs whose worker has been silent for too long.")
    expired.add_metric([], sum(lease.is_expired for lease in now.leases))
    yield expired
    workers = _gauge("workers", "Workers that spoke within one lease.", "queue", "device")
    there: dict[tuple[str, str], int] = {(queue.name, "cpu"): 0 for queue in now.queues}
    for line in now.workers:
        for name in line.worker.queues if line.is_alive else []:
            key = (name, line.worker.device)
            there[key] = there.get(key, 0) + 1
    for (name, device), count in sorted(there.items()):
        workers.add_metric([name, device], count)
    yield workers


def _jobs_of_late() -> Iterator[Metric]:
    events = _gauge("job_events_last_hour", "What happened to jobs within an hour.", "event")
    for name, count in overview.count_events(HOUR, EVENTS).items():
        events.add_metric([name], count)
    yield events
    failures = _gauge("job_failures_last_hour", "Jobs that failed, by their code.", "kind", "code")
    for kind, code, count in overview.failure_counts(HOUR):
        failures.add_metric([kind, code], count)
    yield failures
    yield from _histograms()


def _histograms() -> Iterator[Metric]:
    """Of the jobs that came to a good end within a day; gauges, since the day moves on."""
    took = _histogram("job_duration_seconds_last_day", "From a job's first start to its end.")
    waited = _histogram("job_wait_seconds_last_day", "From a job's coming to its first start.")
    for family, first, last in (
        (took, "started_at", "finished_at"),
        (waited, "created_at", "started_at"),
    ):
        for kind, counts, total in _counted(first, last):
            family.add_metric([kind], counts, total)
        yield family


def _counted(first: str, last: str) -> Iterator[tuple[str, list[tuple[str, float]], float]]:
    """(kind, the buckets, the sum of seconds), counted where the rows are."""
    seconds = f"extract(epoch FROM {last} - {first})::float8"
    # Limits and seconds are negated: a bucket holds what is as long as its limit, too.
    query = f"""
        SELECT kind, %s - width_bucket(-{seconds}, %s::float8[]), count(*), sum({seconds})
        FROM jobs_job
        WHERE kind = ANY(%s) AND finished_at > now() - interval '1 day'
          AND state = 'done' AND started_at IS NOT NULL
        GROUP BY 1, 2"""  # noqa: S608  names of our own columns
    with connection.cursor() as cursor:
        limits = [-limit for limit in reversed(BUCKETS)]
        cursor.execute(query, [len(BUCKETS), limits, registry.kinds()])
        rows = cursor.fetchall()
    for kind in sorted({row[0] for row in rows}):
        counts = {bucket: count for name, bucket, count, _ in rows if name == kind}
        cumulative, buckets = 0, []
        for place, limit in enumerate((*BUCKETS, float("inf"))):
            cumulative += counts.get(place, 0)
            name = "+Inf" if limit == float("inf") else str(limit)
            buckets.append((name, float(cumulative)))
        yield kind, buckets, sum(row[3] for row in rows if row[0] == kind)


def _totals() -> Iterator[Metric]:
    by_kind, counts = cache.get_or_set("metrics totals", _count_all, TOTALS_SECONDS) or _count_all()
    jobs = _gauge("jobs", "Jobs that the database has.", "kind", "state")
    for (kind, state), count in sorted(by_kind.items()):
        jobs.add_metric([kind, state], count)
    yield jobs
    for name, text in (
        ("blobs", "Files that the store has."),
        ("blob_bytes", "Their bytes."),
        ("modules", "LoRA modules."),
        ("recipes", "Recipes."),
        ("users", "Accounts, guests left out."),
    ):
        family = _gauge(name, text)
        family.add_metric([], counts[name])
        yield family


def _count_all() -> Totals:
    from composer.models import Recipe
    from hub_site.accounts.models import User
    from modules.models import Blob, LoraModule

    known = {(kind, state): 0 for kind in registry.kinds() for state in STATES}
    rows = Job.objects.order_by().values_list("kind", "state").annotate(Count("pk"))
    by_kind = known | {(kind, state): count for kind, state, count in rows}
    blobs = Blob.objects.aggregate(count=Count("pk"), bytes=Sum("size"))
    return by_kind, {
        "blobs": blobs["count"],
        "blob_bytes": int(blobs["bytes"] or 0),
        "modules": LoraModule.objects.count(),
        "recipes": Recipe.objects.count(),
        "users": User.objects.filter(is_guest=False).count(),
    }


def _machine() -> Iterator[Metric]:
    free = _gauge("disk_free_bytes", "Room left on a folder's file system.", "folder")
    total = _gauge("disk_bytes", "Size of a folder's file system.", "folder")
    for room in disk.rooms():
        free.add_metric([room.name], room.free)
        total.add_metric([room.name], room.total)
    yield from (free, total)
    web = InfoMetricFamily("commons_site", "Which version answers.")
    versions = {
        "version": VERSION,
        "django": django.get_version(),
        "python": platform.python_version(),
    }
    web.add_metric([], versions)
    yield web


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"commons_{name}", text, labels=labels)


def _histogram(name: str, text: str) -> GaugeHistogramMetricFamily:
    return GaugeHistogramMetricFamily(f"commons_{name}", text, labels=["kind"])

"""The operator's page for a terminal; both ask `overview.py`."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from hub_site.figures import duration, size
from hub_site.jobs import overview, queue
from hub_site.jobs.models import STATES, Job, JobEvent
from hub_site.jobs.overview import Overview

EVERY = 2.0
CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True)
class Table:
    """One subject: rows for programs, and how they look on a terminal."""

    name: str
    rows: list[dict[str, Any]]
    empty: str


class Command(BaseCommand):
    help = (
        "Shows queues, workers, leases, and what happened to jobs last; with a state, kind, user "
        "or id, the jobs that are meant; with cancel ID, stops one."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("what", nargs="?", choices=["cancel"], help="cancel ID stops a job")
        parser.add_argument("id", nargs="?", type=uuid.UUID, help="of the job to cancel")
        parser.add_argument("--state", choices=STATES)
        parser.add_argument("--kind")
        parser.add_argument("--user", help="a user's name")
        parser.add_argument("--id", dest="job", type=uuid.UUID, help="one job, with its events")
        parser.add_argument("--limit", type=int, default=20, help="jobs and events shown (20)")
        parser.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, **options: Any) -> None:
        if options["what"] == "cancel":
            self.cancel(options["id"])
            return
        look = self._looker(options)
        if not options["watch"]:
            self.show(look(), options["json"])
            return
        try:
            while True:
                tables = look()
                if not options["json"]:
                    self.stdout.write(CLEAR, ending="")
                self.show(tables, options["json"])
                time.sleep(EVERY)
        except KeyboardInterrupt:
            return

    def _looker(self, options: dict[str, Any]) -> Callable[[], list[Table]]:
        wanted = {name: options[name] or "" for name in ("state", "kind", "user")}
        limit, pk = options["limit"], options["job"]
        if pk is not None:
            return lambda: [*jobs_of(wanted, pk, 1), events_of(pk, limit)]
        if any(wanted.values()):
            return lambda: jobs_of(wanted, None, limit)
        return lambda: everything(limit)

    def cancel(self, pk: uuid.UUID | None) -> None:
        job = Job.objects.filter(pk=pk).first() if pk else None
        if job is None:
            raise CommandError(f"There is no job {pk}." if pk else "Say which: jobs cancel ID.")
        if job.is_over:
            raise CommandError(f"The job {pk} is {job.state} already.")
        job = queue.request_cancel(job)
        if job.state == "running":
            self.stdout.write("Its worker has been told, and stops at its next step.")
        else:
            self.stdout.write(f"The job is {job.state}.")

    def show(self, tables: Sequence[Table], as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({table.name: table.rows for table in tables}, default=str))
            return
        for table in tables:
            self.stdout.write(self.style.MIGRATE_HEADING(table.name.capitalize()))
            for line in _lines(table.rows) if table.rows else [table.empty]:
                self.stdout.write(f"  {line}")
            self.stdout.write("")
        self.stdout.flush()


# --- what is shown -------------------------------------------------------------------------------


def everything(limit: int) -> list[Table]:
    now = Overview()
    return [
        Table("queues", [_queue(line) for line in now.queues], "none"),
        Table(
            "workers",
            [_worker(line) for line in now.workers],
            "No worker has signed on: start one with "
            "celery -A hub_site.celery worker --pool prefork --concurrency 1",
        ),
        Table("leases", [_lease(line) for line in now.leases], "No job is running."),
        Table("waiting", [_job(job) for job in now.waiting], "Nothing waits."),
        Table(
            "stuck",
            [{"id": job.pk, "kind": job.kind, "why": why} for job, why in now.stuck],
            "none",
        ),
        Table("failures", [_job(job) for job in now.failures], "No job has failed within a day."),
        Table("events", _events(overview.newest_events(limit)), "Nothing has happened yet."),
    ]


def jobs_of(wanted: dict[str, str], pk: uuid.UUID | None, limit: int) -> list[Table]:
    found = overview.jobs(**wanted, pk=pk)[:limit]
    return [Table("jobs", [_job(job) for job in found], "No such job.")]


def events_of(pk: uuid.UUID, limit: int) -> Table:
    return Table("events", _events(overview.newest_events(limit, job=pk)), "none")


def _queue(line: overview.QueueLine) -> dict[str, Any]:
    return {
        "queue": line.name,
        "waiting": line.waiting,
        "oldest": _time(line.oldest_age),
        "running": line.running,
        "workers": line.workers,
    }


def _worker(line: overview.WorkerLine) -> dict[str, Any]:
    worker = line.worker
    return {
        "name": worker.name,
        "is": "alive" if line.is_alive else "silent",
        "queues": ",".join(worker.queues),
        "device": worker.device,
        "memory": size(worker.memory) if worker.memory else "",
        "warm": ",".join(worker.warm),
        "seen": _stamp(worker.seen_at),
        "jobs": ",".join(str(lease.job.pk) for lease in line.leases),
    }


def _lease(line: overview.LeaseLine) -> dict[str, Any]:
    job = line.job
    return {
        "id": job.pk,
        "kind": job.kind,
        "user": job.user,
        "worker": line.worker,
        "fence": job.fence,
        "attempts": job.attempts,
        "lease": "ran out" if line.is_expired else f"{_time(line.left)} left",
    }


def _job(job: Job) -> dict[str, Any]:
    return {
        "id": job.pk,
        "kind": job.kind,
        "state": job.state,
        "queue": job.queue,
        "user": job.user,
        "came": _stamp(job.created_at),
        "ended": _stamp(job.finished_at),
        "code": job.error_code,
        "message": job.error_message,
    }


def _stuck(job: Job, why: str) -> dict[str, Any]:
    return {"id": job.pk, "kind": job.kind, "why": why}


def _events(events: Iterable[JobEvent]) -> list[dict[str, Any]]:
    return [
        {
            "at": _stamp(event.at),
            "event": event.name,
            "job": event.job_id,
            "kind": event.job.kind,
            "fence": event.fence,
            "why": event.detail.get("reason") or event.detail.get("code") or "",
        }
        for event in events
    ]


def _time(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def _stamp(when: Any) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S}" if when else ""


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Columns as wide as they need be; those with nothing in them are left out."""
    names = [name for name in rows[0] if any(_cell(row[name]) for row in rows)]
    table = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(names))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]


def _cell(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())[:100]

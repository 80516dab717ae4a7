"""The worker's side of an import: try, wait and try again where that helps, and always an end."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site import figures
from hub_site.accounts.notices import notify
from hub_site.errors import status_of
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from hub_site.jobs.worker import Lease
from modules.importing import importing, patience
from modules.importing.addresses import Address
from modules.importing.importing import Done, Plan
from modules.models import HubHome, Import
from modules.on_hub.accounts import noting_broken, token_for
from modules.storage.hub import Hub, HubFault

JUST_NOW = timedelta(minutes=10)
LOOK = 0.5  # seconds between looks at whether we should stop
SAID_EVERY = 1.0  # seconds


def run(job: Job, lease: Lease) -> None:
    """Bring one repo. A second run does no harm: what is there already is not brought again."""
    while True:
        row = _row(job)
        if row is None or row.is_over or row.job_id != job.pk:
            with queue.finish(job, {"outcome": "over before"}):
                return
        _wait(row, lease)
        try:
            with noting_broken(HubHome.OWN, row.user):
                _try(row, job, lease)
            return
        except CommonsError as error:
            if not patience.helps(error) or row.tries + 1 >= _tries():
                _give_up(row, job, error)
                return
            _note(row, job, error)


def _row(job: Job) -> Import | None:
    rows = Import.objects.select_related("user", "namespace")
    return rows.filter(pk=job.params["import"]).first()


def _try(row: Import, job: Job, lease: Lease) -> None:
    hub = Hub(token_for(row.user))
    say = _Teller(row, job)
    say("asking the Hub")
    plan = importing.look(
        hub,
        Address(row.hub_id, row.revision, row.name),
        owner=row.namespace,
        author=row.user,
        visibility=row.visibility,
    )
    lease.check()
    if plan.is_known:
        with queue.finish(job, {"outcome": Import.SAME}):
            _done(row, job, plan, importing.note_same(plan), {})
        return
    with importing.fetched(hub, plan, lease.check, say) as came:
        lease.check()
        converted = came.conversion.to_json() if came.conversion else {}
        with queue.finish(job, {"outcome": "imported"}):
            _done(row, job, plan, importing.publish(plan, came), converted)


class _Teller:
    """What is being done, for the page; how far it is, not more often than anybody looks."""

    def __init__(self, row: Import, job: Job) -> None:
        self.row, self.job, self.said, self.said_at = row, job, "", 0.0

    def __call__(self, what: str) -> None:
        doing = what.partition(":")[0]
        if doing == self.said and time.monotonic() - self.said_at < SAID_EVERY:
            return
        self.said, self.said_at = doing, time.monotonic()
        _open(self.row, self.job).update(state=Import.RUNNING, step=what[:160])


def _open(row: Import, job: Job) -> Any:
    """The row, as long as this very claim of its job is the last one."""
    return Import.objects.filter(pk=row.pk, job=job, job__fence=job.fence).open()


def _done(row: Import, job: Job, plan: Plan, done: Done, converted: dict[str, Any]) -> None:
    reason = ""
    if done.kept:
        reason = f"{', '.join(done.kept)} was changed here and stays as it is."
    _open(row, job).update(
        state=Import.DONE,
        outcome=done.outcome,
        reason=reason,
        step="",
        repo=done.repo,
        hub_sha=plan.facts.sha,
        size=plan.size,
        converted=converted,
        next_try_at=None,
        finished_at=timezone.now(),
    )


# --- when it goes wrong ------------------------------------------------------------------------


def _give_up(row: Import, job: Job, error: CommonsError) -> None:
    """Refused is what stays so; failed, what may come next time."""
    may_come = patience.helps(error) or not isinstance(error, HubFault) and status_of(error) >= 500
    with queue.finish(job, {"outcome": "not imported", "code": error.code}):
        _end(_open(row, job), Import.FAILED if may_come else Import.REFUSED, error.user_message)


def _end(rows: Any, state: str, reason: str) -> None:
    rows.update(state=state, reason=reason, step="", next_try_at=None, finished_at=timezone.now())


def _tries() -> int:
    """One, when the Hub was found down just now by an import before this one."""
    ended = Import.objects.filter(state=Import.FAILED, finished_at__gt=timezone.now() - JUST_NOW)
    return 1 if ended.filter(tries__gte=patience.MOST_TRIES - 1).exists() else patience.MOST_TRIES


def _note(row: Import, job: Job, fault: CommonsError) -> None:
    """Write down when it is tried again, so that another worker waits as long."""
    pause = patience.pause(fault, row.tries)
    again = timezone.now() + timedelta(seconds=pause)
    _open(row, job).update(
        state=Import.RUNNING,
        tries=row.tries + 1,
        next_try_at=again,
        step=f"{fault.user_message} Tried again in {figures.duration(pause)}."[:160],
    )


def _wait(row: Import, lease: Lease) -> None:
    """Until it is time. Whoever is more important goes first; all who wait here are imports."""
    while row.next_try_at is not None and timezone.now() < row.next_try_at:
        lease.give_way()
        time.sleep(LOOK)
    lease.check()


# --- the end of the job ------------------------------------------------------------------------


def over(job: Job, state: str) -> None:
    """Also for a job that was cancelled or died: no import is on its way for ever."""
    rows = Import.objects.filter(pk=job.params["import"], job=job)
    if state == "cancelled":
        _end(rows.open(), Import.CANCELLED, "")
    elif state == "failed":
        _end(rows.open(), Import.FAILED, job.error_message)
    row = rows.select_related("user", "namespace__user").first()
    if row is not None:
        _tell_if_last(row)


def _tell_if_last(row: Import) -> None:
    """One notice for all that was asked for at once, when the last of it has ended."""
    whom = row.user
    if whom is None or row.state == Import.CANCELLED:
        return
    with connection.cursor() as cursor:  # two that end at the same time count one after the other
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [row.batch.int % (1 << 63)])
    batch = Import.objects.filter(batch=row.batch)
    if batch.open().exists():
        return
    count = batch.count()
    came = batch.filter(state=Import.DONE).count()
    if count == 1:
        text = f"{row.hub_id} {'is imported' if came else 'was not imported'}."
    else:
        text = f"{came} of {count} modules are imported from the Hub."
    notify(whom, text, row.get_absolute_url())

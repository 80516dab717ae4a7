"""The only place where a job changes its state.

Every transition is one conditional UPDATE on the job's id, fence and state, by the database's
clock, with an event written in the same transaction. Whoever lost the lease holds an old fence
and can write nothing.
"""

import json
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import BooleanField, Case, ExpressionWrapper, F, Max, Min, Q, QuerySet, When
from django.db.models.functions import Coalesce, Now

from composer.engine.errors import CommonsError
from hub_site.accounts.models import User
from hub_site.jobs import bells, capacity, registry
from hub_site.jobs.models import OVER, SCHEMA, Job, JobEvent
from hub_site.jobs.worker_name import main_name_of

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
DatabaseLost = (OperationalError, InterfaceError)
NEXT = ("-priority", "crashes", "turn", "created_at", "id")
# Why a worker let go of a job, as its events say it and pages read it.
SHUTTING_DOWN, GIVING_WAY = "the worker is ending", "a job of higher priority waits"
# Jobs above this priority are short; the limit on what a user has running does not hold for them.
LONG = 0
# So many of those that wait are looked at for jobs that others are warm for.
HEAD = 50
# Advisory locks are known by two numbers; this one is of claims, beside the user's id.
CLAIMS = 4_701


class LeaseLost(Exception):
    """Somebody else may run this job now; nothing of ours may be written any more."""


class JobCancelled(Exception):
    """The job's owner asked to stop it."""


class _AtLimit(Exception):
    """This user has as many jobs running as one may have."""

    def __init__(self, user: int) -> None:
        super().__init__(user)
        self.user = user


class KeyUsedTwice(CommonsError):
    code = "idempotency_key_reused"
    status = 409


def _again_when_database_is_lost(call: Callable[P, T]) -> Callable[P, T]:
    """Repeat the same call until the database answers, at most for the length of a lease."""

    @wraps(call)
    def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        give_up = time.monotonic() + settings.JOB_LEASE_SECONDS
        pause = 0.1
        while True:
            try:
                return call(*args, **kwargs)
            except DatabaseLost as error:
                if connection.in_atomic_block or time.monotonic() + pause > give_up:
                    raise
                logger.warning("%s: database lost (%s), trying again", call.__name__, error)
                connection.close()
                time.sleep(pause)
                pause = min(pause * 2, 2.0)

    return patient


def _lease_end() -> Any:
    return Now() + timedelta(seconds=settings.JOB_LEASE_SECONDS)


def _log(job: Job, name: str, **detail: Any) -> None:
    JobEvent.objects.create(job_id=job.pk, fence=job.fence, name=name, detail=detail)


def _at(job: Job, state: str) -> QuerySet[Job]:
    return Job.objects.filter(pk=job.pk, fence=job.fence, state=state)


def _held(job: Job) -> QuerySet[Job]:
    """The row, as long as the lease of this very claim holds."""
    return _at(job, "running").filter(lease_until__gt=Now())


def _why_not(job: Job) -> Exception:
    """What happened to a job that `_held(...)` did not find, or found cancelled."""
    if _held(job).filter(cancel_requested=True).exists():
        return JobCancelled(f"Job {job.pk} was cancelled.")
    return LeaseLost(f"Job {job.pk}: the lease of fence {job.fence} is over.")


# --- submit ------------------------------------------------------------------------------------
def submit(
    kind: str,
    *,
    user: User | None = None,
    params: dict[str, Any],
    priority: int = 0,
    idempotency_key: str | None = None,
    needs: dict[str, Any] | None = None,
    queue: str = capacity.CPU,
) -> Job:
    """Put a job in the queue; a worker is woken when the caller's transaction commits.

    The same key of the same user gives the same job again, with `is_new` false. `needs` is what
    `Job` says of it; `queue` is "gpu" for what no CPU does in good time.
    """
    if not registry.is_known(kind):
        raise LookupError(f"No handler is registered for the job kind {kind!r}.")
    fields = {"kind": kind, "params": params, "priority": priority, "needs": needs or {}}
    fields["queue"] = queue
    with transaction.atomic():
        fields["turn"] = _turn(user, priority)
        if idempotency_key is None:
            job, is_new = Job.objects.create(user=user, **fields), True
        else:
            job, is_new = Job.objects.get_or_create(
                user=user, idempotency_key=idempotency_key, defaults=fields
            )
        if is_new:
            _log(job, "submitted")
            ring(job)
        elif (job.kind, job.params) != (kind, json.loads(json.dumps(params))):
            raise KeyUsedTwice(
                f'The idempotency key "{idempotency_key}" was used before for something else. '
                "Send a new key with a new request."
            )
    job.is_new = is_new
    return job


def _turn(user: User | None, priority: int) -> int:
    """The round in which this user's new job has its place: start-time fair queueing (Goyal, Vin
    and Cheng, 1996) with jobs of one length. Nobody waits for more than one job of each other user
    for each of their own."""
    same = Job.objects.filter(priority=priority)
    now = same.filter(state="running").aggregate(turn=Max("turn"))["turn"]
    if now is None:
        first = same.filter(state="queued", crashes=0).order_by("turn").values_list("turn").first()
        now = first[0] if first else 0
    own = same.filter(user=user, state__in=["queued", "running"]).aggregate(turn=Max("turn"))
    if user is None or own["turn"] is None:
        return int(now)
    return max(int(now), own["turn"] + 1)


def line_up_behind(user: User, guest: User) -> None:
    """Before a guest's jobs become a user's: their turns come after those of the user's own, as
    if the user had submitted them. Otherwise each guest brings a place at the head of the queue."""
    User.objects.select_for_update().get(pk=user.pk)  # guests of one user, one after the other
    own = Job.objects.filter(user=user, state__in=["queued", "running"]).order_by()
    for priority, last in own.values_list("priority").annotate(Max("turn")):
        theirs = Job.objects.filter(user=guest, state="queued", priority=priority)
        first = theirs.aggregate(turn=Min("turn"))["turn"]
        if first is not None and first <= last:
            theirs.update(turn=F("turn") + last + 1 - first)


def ring(job: Job, *, anybody: bool = False) -> None:
    """Wake a worker that can do this job, on commit; the message itself carries nothing.

    Who keeps warm what the job needs is woken before others. Sending may fail: the workers look
    after waiting jobs themselves.
    """
    from hub_site.jobs.tasks import wake

    def send() -> None:
        warm = None if anybody else bells.of_warm(job)
        wake.apply_async(queue=warm or bells.of_all(job.queue, needs_store(job)))

    transaction.on_commit(send, robust=True)


def needs_store(job: Job) -> bool:
    return bool(job.needs.get("store")) or job.kind in registry.store_kinds()


def position(job: Job) -> int | None:
    """How soon a waiting job is claimed: 1 is next. None when it does not wait."""
    if job.state != "queued":
        return None
    tied = Q(priority=job.priority, crashes=job.crashes)
    together = tied & Q(turn=job.turn)
    ahead = (
        Q(priority__gt=job.priority)
        | Q(priority=job.priority, crashes__lt=job.crashes)
        | tied & Q(turn__lt=job.turn)
        | together & Q(created_at__lt=job.created_at)
        | together & Q(created_at=job.created_at, pk__lt=job.pk)
    )
    return Job.objects.filter(ahead, state="queued", queue=job.queue).count() + 1


# --- the worker's side -------------------------------------------------------------------------
def claim_next(worker: str) -> Job | None:
    """Take the next waiting job; nobody else gets it while its lease is renewed.

    `worker` is any name; `running_on(name)` finds the jobs of all names that begin with `name:`.
    """
    owner, full = f"{worker}:{secrets.token_hex(4)}", set[int]()
    while True:
        try:
            return _claim(owner, full)
        except _AtLimit as limit:
            full.add(limit.user)


@_again_when_database_is_lost
def _claim(owner: str, full: set[int]) -> Job | None:
    """The first of those that wait; users in `full` have no place left for a long one."""
    rows = waiting().exclude(user__in=full, priority__lte=LONG)
    rows = _left_to_the_warm(rows, main_name_of(owner))
    with transaction.atomic():
        # A claim whose commit was not confirmed before the connection broke is still ours.
        job = Job.objects.filter(owner=owner, state="running").first()
        if job is not None:
            return job
        job = rows.select_for_update(skip_locked=True, of=("self",)).first()
        if job is None:
            return None
        _check_limit(job)
        _at(job, "queued").update(
            state="running",
            fence=F("fence") + 1,
            owner=owner,
            lease_until=_lease_end(),
            attempts=F("attempts") + 1,
            started_at=Coalesce("started_at", Now()),
        )
        job.refresh_from_db()
        _log(job, "claimed", owner=owner)
    return job


def _left_to_the_warm(rows: QuerySet[Job], worker: str) -> QuerySet[Job]:
    """Without those jobs at the head of which a free worker has the base model loaded and this one
    has not, for as long as that saves time; among equals, what is warm here comes first."""
    mine = list(capacity.warm_here())
    elsewhere = capacity.idle_and_warm(but=worker).keys() - set(mine)
    if elsewhere:
        is_young = Q(created_at__gt=Now() - timedelta(seconds=settings.JOB_WARM_SECONDS))
        young = ExpressionWrapper(is_young, output_field=BooleanField())
        head = rows.annotate(young=young).values_list("pk", "needs__warm", "young")[:HEAD]
        left = [pk for pk, warm, is_new in head if is_new and warm in elsewhere]
        for job in Job.objects.filter(pk__in=left[:1]):
            ring(job)
        rows = rows.exclude(pk__in=left)
    if not mine:
        return rows
    is_cold = Case(When(needs__warm__in=mine, then=0), default=1)
    return rows.order_by(*NEXT[:3], is_cold, *NEXT[3:])


def _check_limit(job: Job) -> None:
    """Raise _AtLimit where a user's long jobs run in all places that one user has.

    Claims of one user's jobs take turns here, so that two cannot both take the last place.
    """
    if job.user_id is None or job.priority > LONG:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [CLAIMS, job.user_id])
    if is_held_back(job):
        raise _AtLimit(job.user_id)


def is_held_back(job: Job) -> bool:
    """Whether a waiting job's user has as many long ones running as one may have."""
    if job.user is None or job.priority > LONG:
        return False
    most = settings.GUEST_RUNNING_JOBS if job.user.is_guest else settings.USER_RUNNING_JOBS
    running = Job.objects.filter(user=job.user_id, state="running", priority__lte=LONG).count()
    return running >= most


def next_claimable(rows: QuerySet[Job]) -> Job | None:
    """The first of these waiting jobs whose user has a place left for it: nobody takes the others,
    however free a worker is."""
    full = set[int]()
    while True:
        job = rows.exclude(user__in=full, priority__lte=LONG).first()
        if job is None or job.user_id is None or not is_held_back(job):
            return job
        full.add(job.user_id)


def heartbeat(job: Job) -> None:
    """Renew the lease, once. Raises LeaseLost or JobCancelled."""
    renewed = _held(job).filter(cancel_requested=False).update(lease_until=_lease_end())
    if not renewed:
        raise _why_not(job)


def held(pk: uuid.UUID, fence: int) -> Job | None:
    """The job, while this very claim of it holds and nobody asked for its end."""
    return _held(Job(pk=pk, fence=fence)).filter(cancel_requested=False).first()


def note(job: Job, name: str, **detail: Any) -> None:
    """An event of a job that runs, written under its fence."""
    with transaction.atomic():
        rows = _held(job).filter(cancel_requested=False).select_for_update(of=("self",))
        if rows.first() is None:
            raise _why_not(job)
        _log(job, name, **detail)


@contextmanager
def checkpoint(job: Job) -> Iterator[None]:
    """What the body writes is kept only if the lease holds; it also counts as progress."""
    with transaction.atomic():
        held = _held(job).filter(cancel_requested=False)
        if not held.update(lease_until=_lease_end(), crashes=0, lost=0):
            raise _why_not(job)
        yield
    job.crashes = job.lost = 0


@contextmanager
def finish(job: Job, result: dict[str, Any]) -> Iterator[None]:
    """Like `checkpoint`, and the job is done. A cancel that came first wins."""
    with transaction.atomic():
        held = _held(job).filter(cancel_requested=False)
        if not held.update(state="done", result=result, finished_at=Now(), lease_until=None):
            raise _why_not(job)
        _log(job, "done")
        yield
        registry.over(job, "done")
    job.state, job.result = "done", result


@_again_when_database_is_lost
def release(job: Job, reason: str) -> None:
    """Back to the queue, without a strike: the job did nothing wrong."""
    _leave(job, _held(job), "released", reason=reason)


@_again_when_database_is_lost
def interrupt(job: Job, reason: str) -> None:
    """Back to the queue like an expired lease: not the job's fault, but not for ever."""
    _lose(job, _held(job), reason)


@_again_when_database_is_lost
def strike(job: Job, reason: str) -> None:
    """The process that ran the job died. Too often without progress, and the job is poison."""
    crashes = job.crashes + 1
    with transaction.atomic():
        row = _at(job, "running").filter(crashes=job.crashes)
        if crashes >= settings.JOB_MAX_CRASHES and not job.cancel_requested:
            message = (
                f"The worker process died {crashes} times in a row while running this job, "
                "perhaps for lack of memory. Try fewer modules or shorter examples."
            )
            _end(job, row.filter(cancel_requested=False), "failed", "crashed", message, crashes)
        else:
            _leave(job, row, "struck", crashes=crashes, reason=reason)


@_again_when_database_is_lost
def fail(job: Job, code: str, message: str) -> None:
    _end(job, _held(job), "failed", code, message)


@_again_when_database_is_lost
def stop_cancelled(job: Job) -> None:
    """The worker saw the request and stopped."""
    _end(job, _held(job).filter(cancel_requested=True), "cancelled")


# --- from outside ------------------------------------------------------------------------------
@_again_when_database_is_lost
def request_cancel(job: Job) -> Job:
    """A waiting job is cancelled at once, a running one as soon as its worker looks."""
    with transaction.atomic():
        # The row is locked only so that `queued` cannot become `running` between two UPDATEs.
        now = Job.objects.select_for_update(of=("self",)).get(pk=job.pk)
        if now.state == "queued":
            _at(now, "queued").update(
                state="cancelled", cancel_requested=True, finished_at=Now(), lease_until=None
            )
            _log(now, "cancelled")
            registry.stopped(now)
            registry.over(now, "cancelled")
        elif now.state == "running" and not now.cancel_requested:
            _at(now, "running").update(cancel_requested=True)
            _log(now, "cancel requested")
    job.refresh_from_db()
    return job


@_again_when_database_is_lost
def reap() -> int:
    """Take expired leases away; returns how many jobs were."""
    expired = Q(state="running", lease_until__lte=Now())
    with transaction.atomic():
        jobs = list(
            Job.objects.select_for_update(skip_locked=True, of=("self",)).filter(expired)[:100]
        )
        for job in jobs:
            row = _at(job, "running").filter(lease_until__lte=Now())
            _lose(job, row, f"the lease of {job.owner} ran out")
    return len(jobs)


def waiting() -> QuerySet[Job]:
    """What this worker could claim, by what it has and what it knows of."""
    has = capacity.of_this_process()
    # A kind that is unknown here belongs to a newer version; after a day it never will be known.
    ours = Q(kind__in=registry.kinds()) | Q(created_at__lt=Now() - timedelta(days=1))
    queued = Job.objects.filter(
        ours, state="queued", queue__in=has.queues, schema__lte=SCHEMA
    ).order_by(*NEXT)
    if not has.has_store:
        queued = queued.exclude(kind__in=registry.store_kinds()).exclude(needs__has_key="store")
    key, most = ("gpu_memory", has.gpu_memory) if has.has_gpu else ("memory", has.memory)
    says_nothing = Q(**{f"needs__{key}__isnull": True})
    return queued.filter(says_nothing | Q(**{f"needs__{key}__lte": most}))


def running_on(worker: str) -> QuerySet[Job]:
    """What the processes of this worker have claimed."""
    return Job.objects.filter(state="running", owner__startswith=f"{worker}:")


def waits_higher(job: Job) -> bool:
    """Is somebody in the queue who goes before this running job, and whom no free worker took?"""
    taken_by_the_free = timedelta(seconds=settings.JOB_GIVE_WAY_SECONDS)
    higher = waiting().filter(priority__gt=job.priority)
    return next_claimable(higher.filter(created_at__lt=Now() - taken_by_the_free)) is not None


# --- the UPDATEs -------------------------------------------------------------------------------
def _leave(job: Job, row: QuerySet[Job], event: str, *, reason: str, **counts: int) -> None:
    """running -> queued, or -> cancelled when that was asked for."""
    with transaction.atomic():
        back = row.filter(cancel_requested=False)
        if back.update(state="queued", owner="", lease_until=None, **counts):
            _log(job, event, reason=reason, **counts)
            ring(job)
            job.state = "queued"
        else:
            _end(job, row.filter(cancel_requested=True), "cancelled")


def _lose(job: Job, row: QuerySet[Job], reason: str) -> None:
    lost = job.lost + 1
    if lost >= settings.JOB_MAX_LOST and not job.cancel_requested:
        message = (
            f"The work was interrupted {lost} times in a row without any progress. "
            "Please start it again; if that happens again, tell the people who run this site."
        )
        _end(job, row.filter(cancel_requested=False), "failed", "lost", message)
    else:
        _leave(job, row, "lost", lost=lost, reason=reason)


def _end(
    job: Job,
    row: QuerySet[Job],
    state: str,
    code: str = "",
    message: str = "",
    crashes: int | None = None,
) -> None:
    """running -> a final state, or LeaseLost."""
    assert state in OVER
    with transaction.atomic():
        ended = row.update(
            state=state,
            error_code=code,
            error_message=message,
            finished_at=Now(),
            lease_until=None,
            crashes=F("crashes") if crashes is None else crashes,
        )
        if not ended:
            raise LeaseLost(f"Job {job.pk}: the lease of fence {job.fence} is over.")
        _log(job, state, **({"code": code} if code else {}))
        job.state, job.error_code, job.error_message = state, code, message
        if state != "done":
            registry.stopped(job)
        registry.over(job, state)

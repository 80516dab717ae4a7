"""Every transition of a job, and that a stale fence writes nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.queue import JobCancelled, LeaseLost
from tests.workers import ROOT

pytestmark = pytest.mark.django_db


def submit(**options: Any) -> Job:
    return queue.submit("test_idle", params={}, **options)


def claim() -> Job:
    job = queue.claim_next("tester")
    assert job is not None
    return job


def events(job: Job) -> list[str]:
    return [event.name for event in JobEvent.objects.filter(job=job)]


def expire(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada")


# --- submit ------------------------------------------------------------------------------------
def test_it_queues_a_job_with_an_event() -> None:
    job = submit(priority=3)
    job.refresh_from_db()
    assert (job.state, job.fence, job.priority) == ("queued", 0, 3)
    assert events(job) == ["submitted"]


def test_it_refuses_a_kind_nobody_does() -> None:
    with pytest.raises(LookupError, match="No handler"):
        queue.submit("test_unheard_of", params={})


def test_it_gives_the_same_job_for_the_same_key(user: User) -> None:
    first = submit(user=user, idempotency_key="k")
    again = submit(user=user, idempotency_key="k")
    assert first.is_new
    assert not again.is_new
    assert first.pk == again.pk
    assert events(first) == ["submitted"]


def test_it_keeps_the_keys_of_two_users_apart(user: User) -> None:
    other = User.objects.create_user("bob")
    jobs = {submit(user=u, idempotency_key="k").pk for u in (user, other, None)}
    assert len(jobs) == 3
    assert submit(idempotency_key="k").pk in jobs


def test_it_refuses_a_key_that_was_used_for_something_else(user: User) -> None:
    submit(user=user, idempotency_key="k")
    with pytest.raises(queue.KeyUsedTwice, match='"k" was used before'):
        queue.submit("test_idle", user=user, params={"other": 1}, idempotency_key="k")


@pytest.mark.django_db(transaction=True)
def test_it_makes_one_job_when_the_same_key_is_sent_at_once() -> None:
    user = User.objects.create_user("ada")

    def send(_: int) -> Any:
        try:
            return submit(user=user, idempotency_key="k").pk
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(send, range(16)))) == 1
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_it_leaves_no_job_when_the_service_fails() -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        submit()
        _ = 1 / 0
    assert not Job.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_it_survives_a_broker_that_is_down() -> None:
    """In a process of its own: Celery keeps its connections for as long as it lives."""
    program = (
        "import django; django.setup()\n"
        "from hub_site.jobs import queue\n"
        "job = queue.submit('test_idle', params={})\n"
        "print(job.state)\n"
    )
    environment = {
        **os.environ,
        "BROKER_URL": "redis://127.0.0.1:1/0",
        "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
    }
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "queued"
    assert "Connection refused" in done.stderr
    assert Job.objects.get().state == "queued"


# --- claim -------------------------------------------------------------------------------------
def test_it_claims_by_priority_and_then_by_age() -> None:
    jobs = [submit(priority=p) for p in (0, 1, 0, 1)]
    assert [claim().pk for _ in jobs] == [jobs[n].pk for n in (1, 3, 0, 2)]
    assert queue.claim_next("tester") is None


def test_it_claims_jobs_that_crashed_after_the_others() -> None:
    crashed, innocent = submit(), submit()
    Job.objects.filter(pk=crashed.pk).update(crashes=1)
    assert claim().pk == innocent.pk


def test_it_raises_the_fence_with_each_claim() -> None:
    submit()
    job = claim()
    assert (job.fence, job.attempts, job.state) == (1, 1, "running")
    first_start = job.started_at
    queue.release(job, "a test")
    again = claim()
    assert (again.fence, again.attempts) == (2, 2)
    assert again.started_at == first_start
    assert again.owner != job.owner
    assert events(job) == ["submitted", "claimed", "released", "claimed"]


def test_it_leases_by_the_clock_of_the_database(settings: Any) -> None:
    settings.JOB_LEASE_SECONDS = 300
    submit()
    job = claim()
    left = Job.objects.filter(pk=job.pk).values_list(F("lease_until") - Now(), flat=True).get()
    assert timedelta(seconds=290) < left <= timedelta(seconds=300)


@pytest.mark.django_db(transaction=True)
def test_it_never_gives_a_job_to_two_workers() -> None:
    jobs = {submit().pk for _ in range(20)}

    def work(number: int) -> list[Any]:
        got = []
        try:
            while (job := queue.claim_next(f"worker {number}")) is not None:
                got.append(job.pk)
        finally:
            connection.close()
        return got

    with ThreadPoolExecutor(8) as threads:
        claimed = [pk for got in threads.map(work, range(8)) for pk in got]
    assert len(claimed) == 20
    assert set(claimed) == jobs
    assert set(Job.objects.values_list("fence", flat=True)) == {1}


def test_it_tells_the_place_in_the_queue() -> None:
    low, high, second = submit(), submit(priority=5), submit()
    assert [j.queue_position() for j in (low, high, second)] == [2, 1, 3]
    job = claim()
    assert job.pk == high.pk
    assert job.queue_position() is None
    assert low.queue_position() == 1


def test_it_says_whether_somebody_more_important_waits(settings: Any) -> None:
    settings.JOB_GIVE_WAY_SECONDS = 0
    submit()
    job = claim()
    submit(priority=0)
    assert not queue.waits_higher(job)
    submit(priority=1)
    assert queue.waits_higher(job)


# --- the worker's transitions ------------------------------------------------------------------
def test_it_renews_the_lease() -> None:
    submit()
    job = claim()
    Job.objects.filter(pk=job.pk).update(lease_until=Now() + timedelta(seconds=1))
    queue.heartbeat(job)
    job.refresh_from_db()
    assert job.lease_until is not None
    assert job.lease_until > timezone.now() + timedelta(seconds=5)


def test_it_keeps_what_a_checkpoint_writes_and_resets_the_strikes() -> None:
    submit()
    Job.objects.update(crashes=2, lost=3)
    job = claim()
    with queue.checkpoint(job):
        JobEvent.objects.create(job=job, fence=job.fence, name="step")
    assert (job.crashes, job.lost) == (0, 0)
    job.refresh_from_db()
    assert (job.crashes, job.lost, job.state) == (0, 0, "running")
    assert events(job)[-1] == "step"


def test_it_drops_a_checkpoint_whose_body_fails() -> None:
    submit()
    Job.objects.update(lost=1)
    job = claim()
    with pytest.raises(ZeroDivisionError), queue.checkpoint(job):
        JobEvent.objects.create(job=job, fence=job.fence, name="step")
        _ = 1 / 0
    job.refresh_from_db()
    assert job.lost == 1
    assert "step" not in events(job)


def test_it_finishes_with_a_result() -> None:
    submit()
    job = claim()
    with queue.finish(job, {"score": 0.5}):
        JobEvent.objects.create(job=job, fence=job.fence, name="last words")
    assert job.is_over
    job.refresh_from_db()
    assert (job.state, job.result, job.lease_until) == ("done", {"score": 0.5}, None)
    assert job.finished_at is not None
    assert events(job)[-2:] == ["done", "last words"]


def test_it_releases_without_a_strike() -> None:
    submit()
    job = claim()
    queue.release(job, "the worker is ending")
    job.refresh_from_db()
    assert (job.state, job.crashes, job.lost, job.owner) == ("queued", 0, 0, "")


def test_it_fails_with_a_code_and_words() -> None:
    submit()
    job = claim()
    queue.fail(job, "bad_examples", "Line 3 is empty.")
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "bad_examples")
    assert job.error_message == "Line 3 is empty."
    assert events(job)[-1] == "failed"


def test_it_strikes_until_the_job_is_poison(settings: Any) -> None:
    settings.JOB_MAX_CRASHES = 3
    submit()
    for crashes in (1, 2):
        queue.strike(claim(), "a test")
        job = Job.objects.get()
        assert (job.state, job.crashes) == ("queued", crashes)
    queue.strike(claim(), "a test")
    job = Job.objects.get()
    assert (job.state, job.error_code, job.crashes) == ("failed", "crashed", 3)
    assert "died 3 times" in job.error_message


def test_it_interrupts_until_no_hope_is_left(settings: Any) -> None:
    settings.JOB_MAX_LOST = 2
    submit()
    queue.interrupt(claim(), "a test")
    assert Job.objects.get().lost == 1
    queue.interrupt(claim(), "a test")
    assert Job.objects.get().error_code == "lost"


# --- cancel ------------------------------------------------------------------------------------
def test_it_cancels_a_waiting_job_at_once() -> None:
    job = queue.request_cancel(submit())
    assert job.state == "cancelled"
    assert job.finished_at is not None
    assert events(job) == ["submitted", "cancelled"]
    assert queue.claim_next("tester") is None


def test_it_tells_the_worker_of_a_cancel_at_every_step() -> None:
    submit()
    job = claim()
    queue.request_cancel(Job.objects.get())
    queue.request_cancel(Job.objects.get())
    for call in (
        lambda: queue.heartbeat(job),
        lambda: queue.checkpoint(job).__enter__(),
        lambda: queue.finish(job, {}).__enter__(),
    ):
        with pytest.raises(JobCancelled):
            call()
    queue.stop_cancelled(job)
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert events(job) == ["submitted", "claimed", "cancel requested", "cancelled"]


@pytest.mark.parametrize("leave", [queue.release, queue.interrupt, queue.strike])
def test_it_does_not_queue_a_cancelled_job_again(leave: Callable[[Job, str], None]) -> None:
    submit()
    job = claim()
    queue.request_cancel(Job.objects.get())
    leave(job, "a test")
    assert Job.objects.get().state == "cancelled"


def test_it_leaves_a_finished_job_as_it_is() -> None:
    submit()
    job = claim()
    with queue.finish(job, {}):
        pass
    assert queue.request_cancel(job).state == "done"
    assert not job.cancel_requested


# --- reap --------------------------------------------------------------------------------------
def test_it_reaps_only_what_expired() -> None:
    submit(), submit()
    held, lost = claim(), claim()
    expire(lost)
    assert queue.reap() == 1
    held.refresh_from_db(), lost.refresh_from_db()
    assert (held.state, lost.state, lost.lost) == ("running", "queued", 1)
    assert events(lost)[-1] == "lost"


def test_it_reaps_a_cancelled_job_into_its_end() -> None:
    submit()
    job = claim()
    queue.request_cancel(Job.objects.get())
    expire(job)
    queue.reap()
    assert Job.objects.get().state == "cancelled"


def test_it_stops_reaping_a_job_that_never_gets_anywhere(settings: Any) -> None:
    submit()
    for _ in range(settings.JOB_MAX_LOST):
        expire(claim())
        queue.reap()
    job = Job.objects.get()
    assert (job.state, job.error_code) == ("failed", "lost")


# --- the fence ---------------------------------------------------------------------------------
def _checkpoint(job: Job) -> None:
    with queue.checkpoint(job):
        JobEvent.objects.create(job=job, fence=job.fence, name="must not stay")


def _finish(job: Job) -> None:
    with queue.finish(job, {"must": "not stay"}):
        JobEvent.objects.create(job=job, fence=job.fence, name="must not stay")


WRITERS: dict[str, Callable[[Job], None]] = {
    "heartbeat": queue.heartbeat,
    "checkpoint": _checkpoint,
    "finish": _finish,
    "release": lambda job: queue.release(job, "stale"),
    "interrupt": lambda job: queue.interrupt(job, "stale"),
    "strike": lambda job: queue.strike(job, "stale"),
    "fail": lambda job: queue.fail(job, "stale", "stale"),
    "stop_cancelled": queue.stop_cancelled,
}


def _reaped(job: Job) -> None:
    expire(job)
    queue.reap()


def _claimed_by_another(job: Job) -> None:
    _reaped(job)
    claim()


def _done_by_another(job: Job) -> None:
    _reaped(job)
    with queue.finish(claim(), {}):
        pass


def _cancel_asked_of_another(job: Job) -> None:
    _claimed_by_another(job)
    queue.request_cancel(Job.objects.get())


@pytest.mark.parametrize(
    "meanwhile", [_reaped, _claimed_by_another, _done_by_another, _cancel_asked_of_another]
)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_stale_fence_writes_nothing(writer: str, meanwhile: Callable[[Job], None]) -> None:
    submit()
    stale = claim()
    meanwhile(Job.objects.get())
    before = Job.objects.values().get(), list(JobEvent.objects.values())
    with pytest.raises(LeaseLost):
        WRITERS[writer](stale)
    assert (Job.objects.values().get(), list(JobEvent.objects.values())) == before


@pytest.mark.parametrize("writer", sorted(set(WRITERS) - {"strike"}))
def test_an_expired_lease_writes_nothing(writer: str) -> None:
    submit()
    job = claim()
    expire(job)
    before = Job.objects.values().get(), list(JobEvent.objects.values())
    with pytest.raises(LeaseLost):
        WRITERS[writer](job)
    assert (Job.objects.values().get(), list(JobEvent.objects.values())) == before


def test_the_database_refuses_an_unknown_state() -> None:
    job = submit()
    with pytest.raises(IntegrityError), transaction.atomic():
        Job.objects.filter(pk=job.pk).update(state="lost")


# --- a database that comes and goes ------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_it_claims_again_after_the_connection_broke() -> None:
    submit()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(_terminate_backend, pid).result()
    assert claim().state == "running"


def _terminate_backend(pid: int) -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    finally:
        connection.close()

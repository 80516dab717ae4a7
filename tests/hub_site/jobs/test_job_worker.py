"""One claimed job, run in this process: where each kind of ending leaves it."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.utils import timezone

from composer.engine.errors import CommonsError
from hub_site.jobs import queue, registry, worker
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.queue import JobCancelled, LeaseLost
from hub_site.jobs.worker import Lease, ShuttingDown
from tests.workers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Body = Callable[[Job, Lease], None]


@pytest.fixture(autouse=True)
def quick_heartbeat(settings: Any) -> Iterator[None]:
    settings.JOB_LEASE_SECONDS, settings.JOB_HEARTBEAT_SECONDS = 60.0, 0.1
    yield
    worker._stop.clear()


body: Body = lambda job, lease: None  # noqa: E731


def handler(job: Job, lease: Lease) -> None:
    body(job, lease)


registry.register("test_here", f"{__name__}.handler")


@pytest.fixture
def run_with() -> Callable[..., Job]:
    """Submit a job, claim it and run it with this body."""

    def run(do: Body, **options: Any) -> Job:
        global body
        body = do
        queue.submit("test_here", params={}, **options)
        job = queue.claim_next("tester")
        assert job is not None
        worker.run(job)
        job.refresh_from_db()
        return job

    return run


def wait_for_check(lease: Lease) -> None:
    """Check until something is raised, as a handler does."""
    for _ in range(1000):
        lease.check()
        time.sleep(0.01)


def test_a_handler_that_returns_is_done(run_with: Callable[..., Job]) -> None:
    assert run_with(lambda job, lease: lease.check()).state == "done"


def test_a_handler_may_finish_with_a_result(run_with: Callable[..., Job]) -> None:
    def finish(job: Job, lease: Lease) -> None:
        with queue.finish(job, {"score": 1}):
            pass

    job = run_with(finish)
    assert (job.state, job.result) == ("done", {"score": 1})


def test_an_error_for_people_fails_with_its_words(run_with: Callable[..., Job]) -> None:
    def refuse(job: Job, lease: Lease) -> None:
        raise CommonsError("Line 3 is empty.")

    job = run_with(refuse)
    assert (job.state, job.error_code, job.error_message) == ("failed", "error", "Line 3 is empty.")


def test_a_bug_fails_once_and_keeps_its_details_in_the_log(
    run_with: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    def bug(job: Job, lease: Lease) -> None:
        raise ZeroDivisionError("details")

    job = run_with(bug)
    assert (job.state, job.error_code) == ("failed", "our_fault")
    assert "details" not in job.error_message
    assert "details" in caplog.text


def test_a_kind_that_is_gone_fails(run_with: Callable[..., Job]) -> None:
    queue.submit("test_here", params={})
    last_week = timezone.now() - timedelta(days=7)
    Job.objects.update(kind="of an older release", created_at=last_week)
    job = queue.claim_next("tester")
    assert job is not None
    worker.run(job)
    job.refresh_from_db()
    assert job.error_code == "our_fault"


def test_a_cancel_is_seen_by_the_heartbeat(run_with: Callable[..., Job]) -> None:
    def cancelled_meanwhile(job: Job, lease: Lease) -> None:
        queue.request_cancel(Job.objects.get(pk=job.pk))
        wait_for_check(lease)

    job = run_with(cancelled_meanwhile)
    assert job.state == "cancelled"


def test_a_cancel_before_the_end_wins(run_with: Callable[..., Job]) -> None:
    def too_late(job: Job, lease: Lease) -> None:
        queue.request_cancel(Job.objects.get(pk=job.pk))

    assert run_with(too_late).state == "cancelled"


def test_a_stop_releases_the_job(run_with: Callable[..., Job]) -> None:
    def stopped(job: Job, lease: Lease) -> None:
        worker.ask_to_stop()
        with pytest.raises(ShuttingDown):
            lease.check()
        lease.check()

    job = run_with(stopped)
    assert (job.state, job.crashes, job.lost) == ("queued", 0, 0)
    assert JobEvent.objects.last().detail == {"reason": "the worker is ending"}  # type: ignore[union-attr]


def test_a_more_important_job_that_nobody_else_takes_goes_first(
    run_with: Callable[..., Job], settings: Any
) -> None:
    settings.JOB_GIVE_WAY_SECONDS = 0.2

    def give_way(job: Job, lease: Lease) -> None:
        lease.give_way()
        queue.submit("test_here", params={}, priority=1)
        lease.give_way()  # not yet
        time.sleep(0.25)
        lease.give_way()
        raise AssertionError("it went on")

    assert run_with(give_way).state == "queued"


def test_a_lost_lease_is_noticed_and_nothing_is_written(run_with: Callable[..., Job]) -> None:
    def taken_away(job: Job, lease: Lease) -> None:
        Job.objects.filter(pk=job.pk).update(fence=99)
        with pytest.raises(LeaseLost):
            wait_for_check(lease)
        lease.check()

    job = run_with(taken_away)
    assert (job.state, job.fence) == ("running", 99)


def test_a_database_that_goes_away_costs_no_strike(run_with: Callable[..., Job]) -> None:
    def cut_off(job: Job, lease: Lease) -> None:
        raise OperationalError("server closed the connection unexpectedly")

    job = run_with(cut_off)
    assert (job.state, job.crashes, job.lost) == ("queued", 0, 1)


def test_a_broken_connection_is_replaced(run_with: Callable[..., Job]) -> None:
    def cut_off(job: Job, lease: Lease) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    assert run_with(cut_off).state == "queued"


def test_the_lease_outlives_itself_while_the_heart_beats(run_with: Callable[..., Job]) -> None:
    def long_work(job: Job, lease: Lease) -> None:
        first = job.lease_until
        assert first is not None
        wait_until(lambda: _lease_of(job) > first, "a later lease")
        lease.check()

    assert run_with(long_work).state == "done"


def _lease_of(job: Job) -> Any:
    return Job.objects.values_list("lease_until", flat=True).get(pk=job.pk)


def test_no_heartbeat_for_a_whole_lease_is_a_lost_lease(settings: Any) -> None:
    settings.JOB_LEASE_SECONDS = 0.05
    lease = Lease(Job())  # its thread is not started: no heart beats
    time.sleep(0.06)
    with pytest.raises(LeaseLost):
        lease.check()


def test_the_heartbeat_ends_with_the_job(run_with: Callable[..., Job]) -> None:
    run_with(lambda job, lease: None)
    assert not [t for t in threading.enumerate() if t.name.startswith("lease ")]


def test_it_works_until_nobody_waits(tmp_path: Any) -> None:
    file = tmp_path / "lines"
    for line in "abc":
        queue.submit("test_mark", params={"file": str(file), "line": line})
    worker.work_until_idle()
    assert file.read_text().split() == ["a", "b", "c"]
    assert set(Job.objects.values_list("state", flat=True)) == {"done"}
    worker.work_until_idle()


def test_a_stopped_worker_claims_nothing() -> None:
    queue.submit("test_idle", params={})
    worker.ask_to_stop()
    worker.work_until_idle()
    assert Job.objects.get().state == "queued"


def test_sigterm_has_its_old_meaning_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    worker.work_until_idle()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_kind_has_one_handler() -> None:
    registry.register("test_here", f"{__name__}.handler")
    with pytest.raises(ValueError, match="already done by"):
        registry.register("test_here", "somewhere.else")


def test_cancel_raises_in_the_handler_by_name(run_with: Callable[..., Job]) -> None:
    """Handlers may tidy up: what `check` raises is an ordinary exception."""
    seen: list[type[Exception]] = []

    def tidy(job: Job, lease: Lease) -> None:
        queue.request_cancel(Job.objects.get(pk=job.pk))
        try:
            wait_for_check(lease)
        except JobCancelled as error:
            seen.append(type(error))
            raise

    assert run_with(tidy).state == "cancelled"
    assert seen == [JobCancelled]

"""Real worker processes, killed. No job is lost, stuck, or done twice."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings

from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent, Worker
from hub_site.jobs.worker_name import pid_of
from tests.counting import assert_counted_once, count_job, names, runs_elsewhere, wait_for_steps
from tests.job_kinds import steps_of
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
Start = Callable[..., WorkerProcess]


def test_it_runs_a_job_and_signs_on_and_off(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job(steps=3, seconds=0)
    assert_counted_once(job)
    assert job.attempts == 1
    assert worker.stop() == 0
    assert not Worker.objects.exists()


def test_it_takes_a_job_up_again_when_the_child_is_killed(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job()
    for steps in (3, 10, 20):
        wait_for_steps(job, steps)
        dead = worker.kill_child(job)
        wait_until(lambda: runs_elsewhere(job, dead), "another child")  # noqa: B023
    assert_counted_once(job)
    assert job.attempts == 4
    assert names(job).count("struck") == 3
    assert worker.process.poll() is None


def test_it_takes_jobs_after_an_idle_child_was_killed(start_worker: Start) -> None:
    """It dies waiting for work, and must not take the lock of the pool's pipe with it."""
    worker = start_worker(JOB_DEAF_MS="600000")
    for _ in range(3):
        job = count_job(steps=2, seconds=0)
        assert_counted_once(job)
        time.sleep(0.3)  # it says that it is done, and goes to wait
        worker.kill_child(job)


def test_it_replaces_a_child_that_hears_nothing(start_worker: Start) -> None:
    start_worker(JOB_DEAF_MS="3000")
    before = count_job(steps=2, seconds=0)
    assert_counted_once(before)
    deaf = pid_of(before.owner)
    os.kill(deaf, signal.SIGSTOP)
    job = count_job(steps=2, seconds=0)
    assert_counted_once(job)
    assert pid_of(job.owner) != deaf
    assert job.crashes == 0


def test_it_takes_a_job_up_again_when_the_whole_worker_is_killed(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job()
    wait_for_steps(job, 5)
    worker.kill()
    start_worker()
    assert_counted_once(job)
    assert names(job).count("lost") == 1
    assert job.crashes == 0


def test_a_child_dies_with_its_main_process(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job()
    wait_for_steps(job, 3)
    orphan = pid_of(Job.objects.get(pk=job.pk).owner)
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: not _is_alive(orphan), "the orphan to end")
    start_worker()
    assert_counted_once(job)


def _is_alive(pid: int) -> bool:
    """Orphans are not ours to wait for; a zombie counts as gone."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_sigterm_releases_the_job_without_a_strike(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job()
    wait_for_steps(job, 5)
    assert worker.stop() == 0
    job.refresh_from_db()
    assert (job.state, job.crashes, job.lost) == ("queued", 0, 0)
    assert names(job)[-1] == "released"
    start_worker()
    assert_counted_once(job)


def test_sigterm_releases_the_job_of_a_child_that_replaced_another(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job()
    wait_for_steps(job, 3)
    dead = worker.kill_child(job)
    wait_until(lambda: runs_elsewhere(job, dead), "another child")
    wait_for_steps(job, 10)
    assert worker.stop() == 0
    job.refresh_from_db()
    assert job.state == "queued"
    assert names(job)[-1] == "released"


@pytest.mark.parametrize("seconds", [0.02, 0.2])
def test_sigterm_while_a_dead_child_is_replaced_leaves_no_job_to_its_lease(
    start_worker: Start, seconds: float
) -> None:
    """The new child is there only after the others were told to stop, and must not claim."""
    worker = start_worker()
    first, second = count_job(steps=100, seconds=0.2), count_job(steps=100, seconds=0.2)
    wait_for_steps(first, 2)
    worker.kill_child(first)
    time.sleep(seconds)
    assert worker.stop() == 0
    second.refresh_from_db()
    assert second.state == "queued", names(second)


def test_sigterm_is_not_forgotten_while_nobody_looks_up(start_worker: Start) -> None:
    """A model is loaded for longer than two leases, say; and a bell has rung meanwhile."""
    worker = start_worker()
    slow, after = count_job(steps=3, seconds=9), count_job(steps=300)
    wait_for(slow, "running")
    for _ in range(3):
        queue.ring(after)
    time.sleep(0.5)
    assert worker.stop() == 0
    slow.refresh_from_db(), after.refresh_from_db()
    assert (slow.state, names(slow)[-1]) == ("queued", "released")
    assert (after.state, names(after)) == ("queued", ["submitted"])


def test_sigterm_to_the_whole_group_releases_it_too(start_worker: Start) -> None:
    """What a terminal's hang-up or a service manager does."""
    worker = start_worker()
    job, waiting = count_job(), count_job(steps=2)
    wait_for_steps(job, 5)
    os.killpg(worker.process.pid, signal.SIGTERM)
    assert worker.process.wait(timeout=60) == 0
    job.refresh_from_db(), waiting.refresh_from_db()
    assert (job.state, waiting.state) == ("queued", "queued")
    assert names(job)[-1] == "released"


def test_sigterm_ends_an_idle_worker(start_worker: Start) -> None:
    worker = start_worker()
    os.killpg(worker.process.pid, signal.SIGTERM)
    assert worker.process.wait(timeout=60) == 0


def test_sigterm_to_a_child_alone_does_not_leave_the_worker_deaf(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job()
    wait_for_steps(job, 3)
    os.kill(pid_of(Job.objects.get(pk=job.pk).owner), signal.SIGTERM)
    assert_counted_once(job)
    assert "released" in names(job)
    assert worker.process.poll() is None


def test_it_finds_jobs_whose_doorbell_was_lost(start_worker: Start) -> None:
    jobs = [count_job(steps=2, seconds=0) for _ in range(5)]
    for message in (settings.BROKER_DIR / "queue").glob("*.msg"):
        message.unlink()
    start_worker()
    for job in jobs:
        assert_counted_once(job)


def test_it_does_not_mind_many_doorbells(start_worker: Start) -> None:
    from hub_site.jobs.tasks import wake

    start_worker()
    jobs = [count_job(steps=5, seconds=0.02) for _ in range(5)]
    for _ in range(50):
        wake.delay()
    for job in jobs:
        assert_counted_once(job)
        assert job.attempts == 1


def test_poison_ends_and_holds_nobody_up(start_worker: Start) -> None:
    worker = start_worker()
    poison = queue.submit("test_poison", params={})
    innocents = [count_job(steps=2, seconds=0.05) for _ in range(4)]
    wait_for(poison, "failed", "done")
    assert (poison.state, poison.error_code) == ("failed", "crashed")
    assert poison.attempts == settings.JOB_MAX_CRASHES
    assert "died 4 times" in poison.error_message
    for job in innocents:
        assert_counted_once(job)
        assert job.crashes == 0
        # Everybody else went before the second try of the job that crashed.
        assert job.finished_at is not None
        second = JobEvent.objects.filter(job=poison, name="claimed")[1]
        assert job.finished_at < second.at
    assert worker.process.poll() is None


def test_it_forgives_a_job_that_crashes_less_often(start_worker: Start) -> None:
    start_worker()
    job = queue.submit("test_poison", params={"times": 2})
    wait_for(job, "done", "failed")
    assert (job.state, job.attempts, job.crashes) == ("done", 3, 2)


def test_a_pause_longer_than_the_lease_loses_the_job_and_writes_nothing(
    start_worker: Start,
) -> None:
    first = start_worker()
    job = count_job(steps=60)
    wait_for_steps(job, 3)
    os.killpg(first.process.pid, signal.SIGSTOP)
    start_worker()
    wait_until(lambda: "lost" in names(job), "the job to be taken away")
    wait_for(job, "running")
    os.killpg(first.process.pid, signal.SIGCONT)
    assert_counted_once(job)
    assert job.attempts >= 2


def test_a_worker_that_freezes_in_the_middle_of_a_checkpoint_loses_the_job(
    start_worker: Start, tmp_path: Path
) -> None:
    """It holds the row's lock, which neither the reaper nor a cancel may wait for, for ever."""
    first = start_worker()
    file = tmp_path / "inside"
    job = queue.submit("test_hold", params={"file": str(file), "line": "inside"})
    wait_until(file.exists, "the checkpoint")
    os.killpg(first.process.pid, signal.SIGSTOP)
    start_worker()
    wait_for(job, "done")
    assert (job.attempts, names(job).count("lost")) == (2, 1)
    os.killpg(first.process.pid, signal.SIGCONT)
    assert_counted_once(count_job(steps=2))


def test_a_running_job_is_cancelled(start_worker: Start) -> None:
    start_worker()
    job, after = count_job(steps=1000), count_job(steps=2)
    wait_for_steps(job, 3)
    queue.request_cancel(job)
    wait_for(job, "cancelled", "done", "failed")
    assert job.state == "cancelled"
    steps = len(steps_of(job))
    assert_counted_once(after)
    time.sleep(0.3)
    assert len(steps_of(job)) == steps


def test_errors_end_a_job_with_words(start_worker: Start) -> None:
    worker = start_worker()
    refused, buggy = queue.submit("test_refuse", params={}), queue.submit("test_bug", params={})
    for job in (refused, buggy):
        wait_for(job, "failed", "done")
    assert (refused.error_code, refused.error_message) == (
        "error",
        "These examples are too long. Shorten them.",
    )
    assert (buggy.error_code, buggy.attempts) == ("our_fault", 1)
    assert "ZeroDivisionError" not in buggy.error_message
    assert "ZeroDivisionError: a bug of ours" in worker.log.read_text()


def test_a_long_job_gives_way_to_a_more_important_one(start_worker: Start, tmp_path: Path) -> None:
    file = str(tmp_path / "order")
    queue.submit("test_shy", params={"file": file, "line": "shy"})
    queue.submit("test_mark", params={"file": file, "line": "first"}, priority=1)
    shy = queue.submit("test_shy", params={"file": file, "line": "last"})
    start_worker()
    wait_for(shy, "done")
    assert Path(file).read_text().split() == ["first", "shy", "last"]

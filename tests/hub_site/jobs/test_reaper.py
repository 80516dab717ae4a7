"""The thread in a worker's main process, one duty at a time."""

import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from django.conf import settings

from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job, Worker
from hub_site.jobs.reaper import Reaper, is_alive
from hub_site.jobs.worker_name import new_name, pid_of
from tests.workers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


class PoolOf:
    """What Celery's prefork pool shows of its processes."""

    def __init__(self, *pids: int) -> None:
        self._pool = SimpleNamespace(_pool=[SimpleNamespace(pid=pid) for pid in pids])


@pytest.fixture
def child() -> Iterator[int]:
    """A process of ours that lives as long as the test."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def dead() -> Iterator[int]:
    """A process of ours that has ended, and that nobody has collected yet."""
    with subprocess.Popen(["true"]) as process:
        wait_until(lambda: not is_alive(process.pid))
        yield process.pid


@pytest.fixture
def reaper(monkeypatch: pytest.MonkeyPatch, child: int, dead: int) -> Reaper:
    monkeypatch.setenv("COMMONS_WORKER_NAME", "restored afterwards")
    reaper = Reaper(None)
    reaper._pool = PoolOf(child, dead)
    return reaper


def claimed_by(reaper: Reaper, pid: int) -> Job:
    queue.submit("test_idle", params={})
    job = queue.claim_next(f"{reaper.name}:{pid}")
    assert job is not None
    assert pid_of(job.owner) == pid
    return job


def bells() -> int:
    return len(list((settings.BROKER_DIR / "queue").glob("*.msg")))


def test_two_workers_never_share_a_name() -> None:
    assert len({new_name() for _ in range(100)}) == 100


def test_it_sees_a_death_without_collecting_it() -> None:
    with subprocess.Popen(["sh", "-c", "exit 3"]) as process:
        wait_until(lambda: not is_alive(process.pid))
        assert process.wait() == 3
    assert not is_alive(process.pid)
    assert is_alive(os.getpid())


def test_it_strikes_only_the_jobs_of_the_dead(reaper: Reaper, child: int, dead: int) -> None:
    alive, orphan = claimed_by(reaper, child), claimed_by(reaper, dead)
    elsewhere = claimed_by(Reaper(None), dead)
    reaper._strike_the_dead()
    states = dict(Job.objects.values_list("pk", "state"))
    assert states == {alive.pk: "running", orphan.pk: "queued", elsewhere.pk: "running"}
    assert Job.objects.get(pk=orphan.pk).crashes == 1


def test_it_strikes_nobody_while_the_worker_ends(reaper: Reaper, dead: int) -> None:
    claimed_by(reaper, dead)
    reaper._stopping = True
    reaper._strike_the_dead()
    assert Job.objects.get().crashes == 0


def test_it_says_that_it_is_there(reaper: Reaper) -> None:
    reaper._reap()
    first = Worker.objects.get()
    reaper._reap()
    assert Worker.objects.get().seen_at > first.seen_at
    assert first.name == reaper.name


def test_it_rings_when_jobs_wait_and_a_child_is_free(reaper: Reaper, child: int, dead: int) -> None:
    before = bells()
    reaper._wake()
    assert bells() == before
    claimed_by(reaper, child)
    queue.submit("test_idle", params={})
    before = bells()
    reaper._wake()
    assert bells() == before + 1
    queue.claim_next(f"{reaper.name}:{dead}")
    queue.submit("test_idle", params={})
    before = bells()
    reaper._wake()
    assert bells() == before


def test_it_ends_a_free_child_only_while_the_same_job_stays_unclaimed(
    reaper: Reaper, child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "JOB_DEAF_SECONDS", 0)
    queue.submit("test_idle", params={})
    queue.submit("test_idle", params={})
    reaper._wake()
    queue.claim_next("another:1:worker:1")  # the queue moves: somebody hears
    reaper._wake()
    assert is_alive(child)
    reaper._wake()
    wait_until(lambda: not is_alive(child), "the deaf child to end")


def test_a_child_is_not_deaf_to_a_job_whose_user_has_no_place_left(
    reaper: Reaper, child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "JOB_DEAF_SECONDS", 0)
    guest = User.objects.create_user("guest-1", is_guest=True)
    for _ in range(2):
        queue.submit("test_idle", params={}, user=guest)
    assert queue.claim_next("another:1:worker:1") is not None
    assert queue.claim_next(f"{reaper.name}:{child}") is None
    before = bells()
    for _ in range(3):
        reaper._wake()
    assert is_alive(child) and bells() == before
    queue.submit("test_idle", params={})
    reaper._wake()
    assert bells() == before + 2

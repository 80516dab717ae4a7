"""The thread in a worker's main process, one duty at a time."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings

from hub_site.jobs import queue
from hub_site.jobs.models import Job, Worker
from hub_site.jobs.reaper import Reaper
from hub_site.jobs.worker_name import new_name, pid_of

pytestmark = pytest.mark.django_db(transaction=True)


class PoolOf:
    """What Celery's prefork pool shows of its processes, for pids of our choice."""

    def __init__(self, *pids: int | None) -> None:
        self._pool = SimpleNamespace(_pool=[SimpleNamespace(pid=pid) for pid in pids])


@pytest.fixture
def reaper(monkeypatch: pytest.MonkeyPatch) -> Reaper:
    monkeypatch.setenv("COMMONS_WORKER_NAME", "restored afterwards")
    reaper = Reaper(None)
    reaper._pool = PoolOf(11, 12)
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


def test_it_strikes_only_the_jobs_of_the_dead(reaper: Reaper) -> None:
    alive, dead = claimed_by(reaper, 11), claimed_by(reaper, 13)
    elsewhere = claimed_by(Reaper(None), 13)
    reaper._strike_the_dead()
    states = dict(Job.objects.values_list("pk", "state"))
    assert states == {alive.pk: "running", dead.pk: "queued", elsewhere.pk: "running"}
    assert Job.objects.get(pk=dead.pk).crashes == 1


def test_it_waits_while_a_child_is_being_started(reaper: Reaper) -> None:
    claimed_by(reaper, 13)
    reaper._pool = PoolOf(11, None)
    reaper._strike_the_dead()
    assert Job.objects.get().state == "running"


def test_it_strikes_nobody_while_the_worker_ends(reaper: Reaper) -> None:
    claimed_by(reaper, 13)
    reaper._stopping = True
    reaper._strike_the_dead()
    assert Job.objects.get().crashes == 0


def test_it_says_that_it_is_there(reaper: Reaper) -> None:
    reaper._reap()
    first = Worker.objects.get()
    reaper._reap()
    assert Worker.objects.get().seen_at > first.seen_at
    assert first.name == reaper.name


def test_it_rings_when_jobs_wait_and_a_child_is_free(reaper: Reaper, settings: Any) -> None:
    before = bells()
    reaper._wake()
    assert bells() == before
    claimed_by(reaper, 11)
    queue.submit("test_idle", params={})
    before = bells()
    reaper._wake()
    assert bells() == before + 1
    queue.claim_next(f"{reaper.name}:12")
    queue.submit("test_idle", params={})
    before = bells()
    reaper._wake()
    assert bells() == before

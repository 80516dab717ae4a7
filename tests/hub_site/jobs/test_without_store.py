"""A worker without the site's disk leaves alone what needs it, and says so."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as site

from hub_site.jobs import queue, registry, worker
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.reaper import Reaper
from tests.hub_site.jobs.test_reaper import PoolOf

pytestmark = pytest.mark.django_db(transaction=True)
FAR = "http://127.0.0.1:9"


@pytest.fixture
def far(settings: Any) -> None:
    settings.FETCH_FROM = FAR


def bells(name: str) -> int:
    return len(list((site.BROKER_DIR / "queue").glob(f"*.{name}.msg")))


def test_it_claims_what_needs_no_store(far: None) -> None:
    queue.submit("test_store", params={"steps": 1}, priority=9)
    queue.submit("test_idle", params={}, priority=8, needs={"store": True})
    plain = queue.submit("test_idle", params={})
    assert queue.claim_next("far") == plain
    assert queue.claim_next("far") is None


def test_a_worker_with_the_store_takes_everything() -> None:
    jobs = [
        queue.submit("test_store", params={"steps": 1}, priority=9),
        queue.submit("test_idle", params={}, priority=8, needs={"store": True}),
        queue.submit("test_idle", params={}),
    ]
    assert [queue.claim_next("near") for _ in jobs] == jobs


def test_it_gives_way_only_to_what_it_can_do(far: None, settings: Any) -> None:
    settings.JOB_GIVE_WAY_SECONDS = 0
    queue.submit("test_idle", params={})
    job = queue.claim_next("far")
    assert job is not None
    queue.submit("test_store", params={"steps": 1}, priority=9)
    assert not queue.waits_higher(job)
    queue.submit("test_idle", params={}, priority=9)
    assert queue.waits_higher(job)


def test_jobs_that_need_the_store_have_a_bell_of_their_own() -> None:
    before = bells("cpu"), bells("cpu-store")
    queue.submit("test_idle", params={})
    assert (bells("cpu"), bells("cpu-store")) == (before[0] + 1, before[1])
    queue.submit("test_store", params={"steps": 1})
    queue.submit("test_idle", params={}, needs={"store": True})
    assert (bells("cpu"), bells("cpu-store")) == (before[0] + 1, before[1] + 2)


def test_its_reaper_takes_nobody_for_deaf_who_may_not_claim(
    far: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMMONS_WORKER_NAME", "restored afterwards")
    settings.JOB_DEAF_SECONDS = 0
    reaper = Reaper(None)
    reaper._pool = PoolOf(1)
    queue.submit("test_store", params={"steps": 1})
    before = bells("cpu-store")
    for _ in range(3):
        reaper._wake()
    assert reaper._unheard is None and bells("cpu-store") == before


def test_it_says_at_its_start_what_it_leaves_to_others(
    far: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COMMONS_WORKER_NAME", "restored afterwards")
    with caplog.at_level(logging.INFO, "hub_site.jobs.reaper"):
        Reaper(None)._say_what_is_left_to_others()
    assert FAR in caplog.text and "prune_store" in caplog.text and "test_store" in caplog.text


def test_pruning_and_pushing_need_the_store_and_reading_or_composing_does_not() -> None:
    kinds = set(registry.store_kinds())
    assert {"prune_store", "keep_on_hub", "push_recipe"} <= kinds
    assert not {"compose", "predict", "check_module", "update_trending"} & kinds


@pytest.fixture
def rest_is_over() -> Iterator[Callable[[], None]]:
    """Ends the rest that a worker takes, as some seconds do."""

    def end() -> None:
        worker._rest_until = 0.0

    end()
    yield end
    end()


def test_when_the_site_is_away_the_job_waits_and_the_worker_rests(
    rest_is_over: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away(job: Job, lease: Any) -> None:
        raise worker.OutOfReach("Nothing comes from there.")

    monkeypatch.setattr("tests.job_kinds.refuse", away)
    job = queue.submit("test_refuse", params={})
    worker.work_until_idle()
    worker.work_until_idle()
    job.refresh_from_db()
    assert (job.state, job.attempts, job.lost, job.crashes) == ("queued", 1, 0, 0)
    assert "Nothing comes" in JobEvent.objects.get(job=job, name="released").detail["reason"]
    assert "claims nothing for a while" in caplog.text
    rest_is_over()
    worker.work_until_idle()
    job.refresh_from_db()
    assert job.attempts == 2


def test_a_job_that_is_hindered_again_and_again_ends(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    def hindered(job: Job, lease: Any) -> None:
        raise worker.Hindered("Its file cannot be read there.")

    monkeypatch.setattr("tests.job_kinds.refuse", hindered)
    settings.JOB_MAX_LOST = 3
    job = queue.submit("test_refuse", params={})
    worker.work_until_idle()
    job.refresh_from_db()
    assert (job.state, job.error_code, job.attempts) == ("failed", "lost", 3)

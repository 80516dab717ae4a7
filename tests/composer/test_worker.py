"""Compositions in real Celery workers on the real broker, left alone and killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from composer import services
from composer.models import FewShotTask, Search
from hub_site.accounts.models import User
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.worker_name import pid_of
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(start_worker: Start) -> Callable[[], WorkerProcess]:
    """A worker that sees the files of this test."""

    def start() -> WorkerProcess:
        return start_worker(
            BLOB_DIR=str(settings.BLOB_DIR), CACHE_DIR=str(settings.CACHE_DIR), ENGINE_THREADS="1"
        )

    return start


def submit(task: FewShotTask, user: User, budget: int) -> Job:
    # CMA-ES, because Cobyla has converged on three modules before anybody can kill it.
    overrides = {"budget": budget, "seed": 3, "population": 4, "optimiser": "cmaes"}
    return services.submit_job(task=task, user=user, overrides=overrides)


def wait_for_generations(job: Job, number: int) -> None:
    search = Search.objects.get(pk=job.pk)
    wait_until(lambda: search.generations.count() >= number, f"{number} generations")


def record(job: Job) -> list[dict[str, Any]]:
    """Everything a search did, but for the time it took."""
    made = Search.objects.get(pk=job.pk).generations.order_by("round", "number")
    rows = made.values_list("record", flat=True)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_worker_composes_and_answers(
    task: FewShotTask, alice: User, start: Callable[[], WorkerProcess]
) -> None:
    worker = start()
    job = wait_for(submit(task, alice, budget=25), "done", "failed")
    assert job.error_message == ""
    search = Search.objects.select_related("recipe__adapter").get(pk=job.pk)
    assert search.recipe is not None and search.recipe.adapter is not None
    blob = Path(settings.BLOB_DIR).rglob(search.recipe.adapter.sha256)
    assert [path.stat().st_size for path in blob] == [search.recipe.adapter.size]
    trial = services.submit_trial(search=search, user=alice, given="big")
    trial = wait_for(trial, "done", "failed")
    assert trial.error_message == "" and trial.result["composed"] is not None
    assert worker.stop() == 0


@pytest.mark.slow
def test_a_search_whose_workers_are_killed_ends_with_the_same_bits(
    task: FewShotTask, alice: User, start: Callable[[], WorkerProcess]
) -> None:
    worker = start()
    whole = wait_for(submit(task, alice, budget=1200), "done", "failed")
    assert whole.error_message == ""

    job = submit(task, alice, budget=1200)
    for generations in (20, 80):
        wait_for_generations(job, generations)
        dead = worker.kill_child(job)
        wait_until(lambda: _runs_elsewhere(job, dead), "another child")  # noqa: B023
    wait_for_generations(job, 140)
    worker.kill()  # as when the machine goes away
    start()
    job = wait_for(job, "done", "failed")
    assert job.error_message == ""
    assert job.attempts == 4
    names = list(JobEvent.objects.filter(job=job).values_list("name", flat=True))
    assert names.count("struck") == 2 and names.count("lost") == 1
    assert "restarted" not in names and names.count("done") == 1
    assert record(job) == record(whole)
    assert job.result["recipe"] == whole.result["recipe"]
    assert Search.objects.get(pk=job.pk).matched


def _runs_elsewhere(job: Job, dead: int) -> bool:
    job.refresh_from_db()
    return job.state == "running" and pid_of(job.owner) != dead

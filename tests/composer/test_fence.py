"""One test for each function by which a worker writes: with a stale fence it writes nothing, in no
table. The queue's own: tests/hub_site/jobs/test_queue.py."""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from django.db.models.functions import Now

from composer import services
from composer.artifacts import Built
from composer.engine import recipe as engine_recipe
from composer.engine.chunk import Chunk
from composer.engine.generation import Generation
from composer.models import FewShotTask, Search
from composer.runner import Composition
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import Job
from hub_site.jobs.queue import LeaseLost
from hub_site.jobs.worker import Lease
from modules.models import Blob
from modules.storage.local import StoredBlob
from tests.keepsake import all_rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def stale(task: FewShotTask, alice: User) -> Composition:
    """A worker's view of a job that another worker has meanwhile."""
    services.submit_job(task=task, user=alice, overrides={"budget": 25})
    job = queue.claim_next("the one that froze")
    assert job is not None
    composition = Composition(job, Lease(job), Search.objects.get(pk=job.pk))
    composition.fingerprint = {"cpu": "of the one that froze"}
    return composition


def _generation(number: int = 0) -> Generation:
    return Generation(
        number=number,
        weights=np.zeros((4, 4)),
        losses=np.ones(4),
        best_weights=np.zeros(4),
        best_loss=1.0,
        evaluations=4,
        budget=25,
        seconds=0.1,
        digest="0" * 64,
    )


def _finish(run: Composition) -> None:
    """Recipe, ingredients, adapter, evidence, notice, and the job's own end."""
    count = len(run.search.spec["ingredients"])
    found = engine_recipe.build(run.search.spec, [0.5] * count)
    sha256 = run.search.spec["ingredients"][0]["sha256"]
    blob = Blob.objects.get(pk=sha256)
    built = Built(StoredBlob(sha256, blob.size, blob.git_sha1), {"r": 8}, {"size": blob.size})
    run._finish(found, built)


def _restart_smaller(run: Composition) -> None:
    class Smaller:  # of the objective only this is asked before anything is written
        def with_chunk(self, chunk: Chunk) -> "Smaller":
            return self

    run.objective = Smaller()  # type: ignore[assignment]
    run._restart_with(Chunk(candidates=1, examples=1), "Too little memory.")


WRITERS: dict[str, Callable[[Composition], object]] = {
    "keep a generation": lambda run: run._keep(_generation(), ""),
    "note evidence": lambda run: run.note(load=[]),
    "settle the spec": lambda run: run.settle({**run.search.spec, "chat_template": "x"}),
    "restart": lambda run: run.restart("because"),
    "restart in smaller pieces": _restart_smaller,
    "finish": _finish,
    "fail, with a notice": lambda run: queue.fail(run.job, "nothing_found", "Nothing."),
    "note a file that came in": lambda run: queue.note(run.job, "kept a file", sha256="0"),
}


def _expired(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))


def _taken_over(job: Job) -> None:
    _expired(job)
    assert queue.reap() == 1
    assert queue.claim_next("the next one") == job


def _failed_meanwhile(job: Job) -> None:
    _taken_over(job)
    queue.fail(Job.objects.get(pk=job.pk), "nothing_found", "Nothing was found.")


@pytest.mark.parametrize("meanwhile", [_expired, _taken_over, _failed_meanwhile])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_stale_fence_writes_nothing(
    stale: Composition, writer: str, meanwhile: Callable[[Job], None]
) -> None:
    meanwhile(Job.objects.get(pk=stale.job.pk))
    before = all_rows()
    with pytest.raises(LeaseLost):
        WRITERS[writer](stale)
    assert all_rows() == before


@pytest.mark.parametrize("writer", WRITERS)
def test_each_of_them_writes_while_the_lease_holds(stale: Composition, writer: str) -> None:
    """Or the tests above would show nothing."""
    before = all_rows()
    WRITERS[writer](stale)
    assert all_rows() != before


@pytest.mark.parametrize("meanwhile", [_taken_over, _failed_meanwhile])
def test_what_is_shown_of_a_stage_is_not_shown_by_a_stale_fence(
    stale: Composition, meanwhile: Callable[[Job], None]
) -> None:
    stale.show(stage="searching")
    assert Search.objects.get(pk=stale.job.pk).stage == "searching"
    meanwhile(Job.objects.get(pk=stale.job.pk))
    before = all_rows()
    stale.show(stage="building")
    assert all_rows() == before

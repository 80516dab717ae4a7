"""What is forgotten of jobs that ended long ago, and what never is."""

from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from hub_site.jobs import queue, registry, retention, worker
from hub_site.jobs.models import Job, JobEvent

pytestmark = pytest.mark.django_db(transaction=True)
LONG_AGO = timedelta(days=40)


def submit(kind: str = "test_idle", **fields: Any) -> Job:
    job = queue.submit(kind, params={})
    Job.objects.filter(pk=job.pk).update(**fields)
    job.refresh_from_db()
    return job


def eventful(ended: timedelta | None) -> Job:
    """A job that stepped aside often, was lost once, and perhaps ended."""
    submit()
    for reason in (queue.GIVING_WAY, queue.GIVING_WAY, "the worker is ending"):
        queue.release(claim(), reason)
    queue.interrupt(claim(), "its lease ran out")
    job = claim()
    if ended is not None:
        with queue.finish(job, {}):
            pass
        Job.objects.filter(pk=job.pk).update(finished_at=timezone.now() - ended)
    return job


def claim() -> Job:
    job = queue.claim_next("test")
    assert job is not None
    return job


def names(job: Job) -> list[str]:
    return list(JobEvent.objects.filter(job=job).values_list("name", flat=True))


def test_of_a_job_of_long_ago_its_ends_and_its_troubles_stay() -> None:
    job = eventful(LONG_AGO)
    assert len(names(job)) == 11
    assert retention.prune().events == 7
    assert names(job) == ["submitted", "released", "lost", "done"]
    assert retention.prune().events == 0


def test_a_job_of_yesterday_keeps_everything() -> None:
    job = eventful(timedelta(days=1))
    before = names(job)
    assert retention.prune().events == 0 and names(job) == before


@pytest.mark.parametrize("state", ["running", "queued"])
def test_a_job_that_was_taken_up_again_is_never_thinned(state: str) -> None:
    """However old it is: it may have come, and been lost, weeks ago."""
    job = eventful(None)
    if state == "queued":
        queue.interrupt(job, "again")
    long_ago = timezone.now() - LONG_AGO
    Job.objects.update(created_at=long_ago, started_at=long_ago)
    before = names(job)
    assert retention.prune().events == 0 and names(job) == before
    assert Job.objects.get(pk=job.pk).state == state


def test_the_days_are_a_setting(settings: Any) -> None:
    settings.KEEP_EVENTS_DAYS = 60
    eventful(LONG_AGO)
    assert retention.prune().events == 0
    settings.KEEP_EVENTS_DAYS = 39
    assert retention.prune().events == 7


@pytest.mark.parametrize(
    "kind", ["predict", "push_recipe", "check_module", "keep_on_hub", "import_module"]
)
def test_jobs_whose_result_stands_elsewhere_go(kind: str) -> None:
    old = {"state": "done", "finished_at": timezone.now() - LONG_AGO}
    gone = submit(kind, **old)
    kept = [
        submit(kind, state="done", finished_at=timezone.now() - timedelta(days=2)),
        submit(kind, state="running", created_at=timezone.now() - LONG_AGO),
        submit(kind, created_at=timezone.now() - LONG_AGO),
        submit("compose", **old),
        submit("test_idle", **old),
    ]
    assert retention.prune().jobs == 1
    assert not Job.objects.filter(pk=gone.pk).exists()
    assert set(Job.objects.values_list("pk", flat=True)) == {job.pk for job in kept}


def test_a_worker_goes_on_where_the_last_one_stopped() -> None:
    assert registry.is_known("prune_jobs")
    eventful(LONG_AGO)
    first = submit("prune_jobs")
    worker.work_until_idle()
    first.refresh_from_db()
    assert (first.state, first.result["events"]) == ("done", 7)
    # What ended before is not looked at again, what ended since is.
    looked_at = eventful(LONG_AGO)
    Job.objects.filter(pk=first.pk).update(
        result={"until": (timezone.now() - LONG_AGO - timedelta(hours=1)).isoformat()}
    )
    passed_by = eventful(LONG_AGO + timedelta(days=1))
    second = submit("prune_jobs")
    worker.work_until_idle()
    second.refresh_from_db()
    assert second.result["events"] == 7
    assert len(names(looked_at)) == 4 and len(names(passed_by)) == 11


def test_the_command_tells_what_it_did(capsys: Any) -> None:
    eventful(LONG_AGO)
    submit("predict", state="done", finished_at=timezone.now() - LONG_AGO)
    call_command("prune_jobs")
    assert "7 events and 1 jobs were deleted" in capsys.readouterr().out

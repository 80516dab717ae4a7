"""A job's token is good while that very claim of the job holds, and for nothing afterwards."""

from datetime import timedelta

import pytest
from django.core.signing import Signer
from django.db.models.functions import Now

from hub_site.jobs import job_tokens, queue
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.queue import JobCancelled, LeaseLost

pytestmark = pytest.mark.django_db


@pytest.fixture
def job() -> Job:
    queue.submit("test_idle", params={})
    claimed = queue.claim_next("tester")
    assert claimed is not None
    return claimed


def test_it_speaks_for_the_job_that_runs(job: Job) -> None:
    token = job_tokens.issue(job)
    assert token.startswith("lcj_") and job_tokens.is_one(token)
    assert job_tokens.find(token) == job
    assert job_tokens.find(token) == job  # more than once: a worker fetches many files


def test_it_ends_with_the_lease_though_nobody_has_looked_yet(job: Job) -> None:
    token = job_tokens.issue(job)
    Job.objects.filter(pk=job.pk).update(lease_until=Now() - timedelta(seconds=1))
    assert job_tokens.find(token) is None


def test_an_old_fence_speaks_for_nobody_when_another_worker_has_the_job(job: Job) -> None:
    old = job_tokens.issue(job)
    queue.release(job, "stepping back")
    assert job_tokens.find(old) is None
    again = queue.claim_next("another")
    assert again is not None and again.pk == job.pk
    assert job_tokens.find(old) is None
    assert job_tokens.find(job_tokens.issue(again)) == job


def test_it_ends_when_the_job_is_to_be_cancelled(job: Job) -> None:
    token = job_tokens.issue(job)
    queue.request_cancel(job)
    assert job_tokens.find(token) is None


def test_it_ends_with_the_job(job: Job) -> None:
    token = job_tokens.issue(job)
    with queue.finish(job, {}):
        pass
    assert job_tokens.find(token) is None


def test_a_job_that_waits_has_no_token_that_works() -> None:
    assert job_tokens.find(job_tokens.issue(queue.submit("test_idle", params={}))) is None


@pytest.mark.parametrize("made", ["changed", "another job", "another fence", "another salt", "odd"])
def test_nobody_makes_one_without_the_key(job: Job, made: str) -> None:
    token = job_tokens.issue(job)
    said, _, signature = token.removeprefix("lcj_").partition(":")
    other = Job(fence=1)
    wrong = {
        "changed": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "another job": f"lcj_{other.pk.hex}.1:{signature}",
        "another fence": f"lcj_{job.pk.hex}.2:{signature}",
        "another salt": "lcj_" + Signer(salt="sessions").sign(said),
        "odd": "lcj_\0:é",
    }
    assert job_tokens.find(token) == job
    assert job_tokens.find(wrong[made]) is None


def test_what_is_no_jobs_token_is_none() -> None:
    assert job_tokens.find("lc_whatever") is None and not job_tokens.is_one("lc_whatever")


def test_a_note_is_written_under_the_fence(job: Job) -> None:
    queue.note(job, "seen", n=1)
    assert JobEvent.objects.get(job=job, name="seen").detail == {"n": 1}
    stale = Job(pk=job.pk, fence=job.fence - 1)
    with pytest.raises(LeaseLost):
        queue.note(stale, "seen", n=2)
    queue.request_cancel(job)
    with pytest.raises(JobCancelled):
        queue.note(job, "seen", n=3)
    assert JobEvent.objects.filter(job=job, name="seen").count() == 1

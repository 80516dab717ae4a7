"""The site's own jobs: submitted when they are due, once, whatever number of workers looks."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from hub_site.jobs import queue, registry, schedule, worker
from hub_site.jobs.models import Job, ScheduledJob
from tests.workers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
KINDS = {"update_trending", "prune_downloads", "prune_jobs", "prune_guests"}


def kinds() -> list[str]:
    return sorted(Job.objects.values_list("kind", flat=True))


def end_all() -> None:
    while job := queue.claim_next("test"):
        with queue.finish(job, {}):
            pass


def test_it_submits_every_job_of_the_site_on_the_first_day() -> None:
    schedule.submit_due()
    assert set(kinds()) >= KINDS and len(kinds()) == len(set(kinds()))
    assert all(registry.is_known(kind) for kind in kinds())


def test_it_submits_nothing_before_the_time_has_come() -> None:
    schedule.submit_due()
    end_all()
    assert schedule.submit_due() == []
    ScheduledJob.objects.filter(kind="update_trending").update(next_at=timezone.now())
    assert [job.kind for job in schedule.submit_due()] == ["update_trending"]


def test_days_without_a_worker_are_made_up_by_one_job_of_a_kind() -> None:
    schedule.submit_due()
    end_all()
    Job.objects.all().delete()
    ScheduledJob.objects.update(next_at=timezone.now() - timedelta(days=9))
    for _ in range(3):
        schedule.submit_due()
    assert set(kinds()) >= KINDS and len(kinds()) == len(set(kinds()))
    assert not ScheduledJob.objects.filter(next_at__lte=timezone.now()).exists()


def test_it_waits_for_the_last_one_to_end() -> None:
    schedule.submit_due()
    before = kinds()
    ScheduledJob.objects.update(next_at=timezone.now())
    assert schedule.submit_due() == [] and kinds() == before


def test_of_many_workers_that_look_at_once_one_submits() -> None:
    def look(_: int) -> int:
        try:
            return len(schedule.submit_due())
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as workers:
        submitted = sum(workers.map(look, range(24)))
    assert submitted == len(kinds()) == len(set(kinds()))


def test_a_worker_runs_them_all_to_their_end() -> None:
    schedule.submit_due()
    worker.work_until_idle()
    failed = Job.objects.exclude(state="done").values_list("kind", "error_message")
    assert list(failed) == []


@pytest.mark.slow
def test_a_real_worker_keeps_the_schedule_by_itself(start_worker: Any) -> None:
    start_worker(JOB_SCHEDULE="1")
    done = Job.objects.filter(kind="update_trending", state="done")
    wait_until(done.exists, "the trending job to be done")


def test_old_jobs_of_the_site_are_forgotten_and_peoples_are_kept() -> None:
    schedule.submit_due()
    end_all()
    theirs = queue.submit("test_idle", params={})
    Job.objects.update(finished_at=timezone.now() - timedelta(days=8))
    Job.objects.filter(kind="prune_jobs").update(finished_at=timezone.now())
    count = Job.objects.count()
    assert schedule.prune_jobs() == count - 2
    assert set(kinds()) == {"prune_jobs", theirs.kind}

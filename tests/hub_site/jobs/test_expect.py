"""When a waiting job may start, as a page tells it."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from composer import limits
from hub_site.accounts.models import User
from hub_site.jobs import expect, queue
from hub_site.jobs.models import SCHEMA, Job, Worker

pytestmark = pytest.mark.django_db


def submit(**options: Any) -> Job:
    return queue.submit("test_idle", params={}, **options)


def took(seconds: float, **options: Any) -> Job:
    """A job of the past that took so long."""
    job = submit(**options)
    end = timezone.now()
    Job.objects.filter(pk=job.pk).update(
        state="done", started_at=end - timedelta(seconds=seconds), finished_at=end
    )
    return job


def runs(seconds: float, owner: str = "a:1:x:2:z", **options: Any) -> Job:
    """A job that has been running for so long."""
    job = submit(**options)
    began = timezone.now() - timedelta(seconds=seconds)
    Job.objects.filter(pk=job.pk).update(state="running", started_at=began, owner=owner)
    return job


def start(job: Job) -> float | None:
    place = job.queue_position()
    assert place is not None
    return expect.start(job, place)


@pytest.fixture
def worker() -> Worker:
    return sign_on("a:1:x")


def sign_on(name: str) -> Worker:
    return Worker.objects.create(
        name=name,
        host="a",
        pid=1,
        seen_at=Now(),
        queues=["cpu", "store"],
        memory=10**10,
        schema=SCHEMA,
    )


def test_nothing_is_guessed_before_one_has_ended(worker: Worker) -> None:
    assert start(submit()) is None


def test_nothing_is_guessed_where_nobody_can_do_it() -> None:
    took(60)
    assert start(submit()) is None


def test_the_next_one_starts_at_once_while_a_worker_is_free(worker: Worker) -> None:
    took(60)
    assert start(submit()) == 0


def test_it_waits_for_what_runs_and_for_those_ahead(worker: Worker) -> None:
    took(50), took(70)
    runs(20)
    first, second = submit(), submit()
    assert start(first) == pytest.approx(40, abs=2)
    assert start(second) == pytest.approx(100, abs=2)


def test_two_workers_halve_the_wait(worker: Worker) -> None:
    took(60)
    sign_on("b:1:x")
    runs(20), runs(50, "b:1:x:2:z")
    waiting = [submit() for _ in range(3)]
    guesses = [start(job) for job in waiting]
    assert guesses == [pytest.approx(each, abs=2) for each in (10, 40, 70)]


def test_one_that_takes_longer_than_usual_is_about_to_end(worker: Worker) -> None:
    took(10)
    runs(1000)
    assert start(submit()) == pytest.approx(1)


def test_jobs_on_the_same_base_model_tell_better(worker: Worker) -> None:
    took(1000, needs={"warm": "big@1"}), took(10, needs={"warm": "small@1"})
    assert expect.seconds_of(submit(needs={"warm": "small@1"})) == pytest.approx(10)
    assert expect.seconds_of(submit(needs={"warm": "new@1"})) == pytest.approx(505)


def test_who_has_too_many_is_told_when_the_next_place_is_free(
    worker: Worker, settings: Any
) -> None:
    settings.USER_QUEUED_JOBS = 2
    user = User.objects.create_user("ada")
    submit(user=user), submit(user=user)
    with pytest.raises(limits.OverLimit, match="Wait for one to end, or cancel one"):
        limits.check_queue(user)
    took(300)
    Job.objects.filter(user=user, state="queued").first().delete()  # type: ignore[union-attr]
    runs(60, user=user)
    with pytest.raises(limits.OverLimit, match="free in about 4 min, or once you cancel one"):
        limits.check_queue(user)

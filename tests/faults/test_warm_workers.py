"""A job goes first to the worker that has loaded what it needs; to another one when that is busy or
gone. Three real workers on a Redis."""

from collections.abc import Callable

import pytest

from hub_site.jobs import queue
from hub_site.jobs.models import Job, Worker
from hub_site.jobs.worker_name import main_name_of
from tests.faults.servers import Redis
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
Start = Callable[..., WorkerProcess]


def submit(seconds: float = 0.0) -> Job:
    return queue.submit("test_warm", params={"seconds": seconds}, needs={"warm": "big@1"})


def done_by(job: Job) -> str:
    wait_for(job, "done", "failed")
    assert job.state == "done"
    return main_name_of(job.owner)


def test_it_goes_to_the_warm_one_or_else_to_another(start_worker: Start, server: Redis) -> None:
    workers = [start_worker(BROKER_URL=server.url, JOB_WARM_MS="20000") for _ in range(3)]
    warm = done_by(submit())
    assert Worker.objects.get(name=warm).warm == ["big@1"]
    assert [done_by(submit()) for _ in range(6)] == [warm] * 6

    busy, beside = submit(seconds=15), submit()
    wait_for(busy, "running")
    assert main_name_of(busy.owner) == warm
    assert done_by(beside) != warm

    pid = Worker.objects.get(name=warm).pid
    next(each for each in workers if each.process.pid == pid).kill()
    wait_until(lambda: done_by(submit()) != warm, "another worker")
    assert done_by(busy) != warm

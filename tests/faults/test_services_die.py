"""The database cuts connections, Redis forgets and dies; the workers go on."""

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from django.db import connection

from hub_site.jobs import queue
from hub_site.jobs.models import Job
from tests.counting import assert_counted_once, count_job, names, runs_elsewhere, wait_for_steps
from tests.workers import WorkerProcess, wait_for, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
Start = Callable[..., WorkerProcess]


def cut_every_other_connection() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        (count,) = cursor.fetchone()
    return int(count)


def test_a_job_survives_the_loss_of_every_connection(start_worker: Start) -> None:
    worker = start_worker()
    job = count_job(steps=30)
    for steps in (3, 10, 20):
        wait_for_steps(job, steps)
        assert cut_every_other_connection() > 0
    assert_counted_once(job)
    assert worker.process.poll() is None


# --- Redis -------------------------------------------------------------------------------------
class Redis:
    """A Redis of the test's own, which keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.url = folder, f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self.answers, "Redis")

    def answers(self) -> bool:
        try:
            return bool(redis.Redis(port=self.port).ping())
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian package redis-server)")
    server = Redis(tmp_path)
    yield server
    server.kill()


def test_on_redis_a_killed_child_and_sigterm_lose_nothing(
    start_worker: Start, server: Redis
) -> None:
    worker = start_worker(BROKER_URL=server.url)
    job = count_job()
    wait_for_steps(job, 3)
    dead = worker.kill_child(job)
    wait_until(lambda: runs_elsewhere(job, dead), "another child")
    wait_for_steps(job, 10)
    assert worker.stop() == 0
    job.refresh_from_db()
    assert (job.state, names(job)[-1]) == ("queued", "released")
    start_worker(BROKER_URL=server.url)
    assert_counted_once(job)
    assert names(job).count("struck") == 1


def test_on_redis_poison_ends_and_holds_nobody_up(start_worker: Start, server: Redis) -> None:
    start_worker(BROKER_URL=server.url)
    poison, innocent = queue.submit("test_poison", params={}), count_job(steps=2)
    wait_for(poison, "failed", "done")
    assert (poison.error_code, poison.attempts) == ("crashed", 4)
    assert_counted_once(innocent)


def test_a_redis_that_dies_empty_loses_no_job(start_worker: Start, server: Redis) -> None:
    worker = start_worker(BROKER_URL=server.url)
    running = count_job()
    wait_for_steps(running, 3)
    server.kill()
    waiting = [count_job(steps=2) for _ in range(3)]
    time.sleep(1)
    server.start()
    for job in (running, *waiting):
        assert_counted_once(job)
    later: Job = count_job(steps=2)
    assert_counted_once(later)
    assert worker.process.poll() is None

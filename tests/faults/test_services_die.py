"""The database cuts connections, Redis forgets and dies; the workers go on."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from django.db import connection

from hub_site.jobs import queue
from hub_site.jobs.models import Job
from tests.counting import assert_counted_once, count_job, names, runs_elsewhere, wait_for_steps
from tests.faults.conftest import Web
from tests.faults.servers import Redis
from tests.workers import ROOT, WorkerProcess, wait_for, wait_until

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


def test_a_redis_that_stays_away_delays_what_is_submitted_and_loses_none_of_it(
    start_worker: Start, server: Redis, start_web: Callable[..., Web]
) -> None:
    """A page that submits does not wait for it; a worker finds the jobs when Redis is back."""
    worker = start_worker(BROKER_URL=server.url)
    web = start_web(BROKER_URL=server.url, JOB_LEASE_MS="3000")
    running = count_job(steps=60)
    wait_for_steps(running, 3)
    server.kill()
    program = (
        "import django; django.setup()\n"
        "from hub_site.jobs import queue\n"
        "for n in range(3): queue.submit('test_count', params={'steps': 2})\n"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.worker_settings"}
    environment["BROKER_URL"] = server.url
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stderr  # the operator's log has it
    assert health(web) == (503, "does not answer")
    time.sleep(float(os.environ.get("REDIS_AWAY_SECONDS", "8")))
    waiting = list(Job.objects.exclude(pk=running.pk))
    assert len(waiting) == 3
    assert_counted_once(running)  # what runs needs no broker
    server.start()
    for job in waiting:
        assert_counted_once(job)
        assert (job.attempts, job.lost) == (1, 0)
    wait_until(lambda: health(web) == (200, "ok"), "the site to see it")
    assert worker.process.poll() is None


def health(web: Web) -> tuple[int, str]:
    line = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    line.request("GET", "/healthz")
    answer = line.getresponse()
    return answer.status, json.load(answer)["broker"]

"""The database is away for longer than a lease: what visitors see, and what jobs do."""

import http.client
import json
import time
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client

from tests.composer.conftest import make_user
from tests.counting import assert_counted_once, count_job, wait_for_steps
from tests.faults.conftest import Web
from tests.faults.servers import Postgres
from tests.workers import SHORT, WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
LEASE = int(SHORT["JOB_LEASE_MS"]) / 1000


def get(web: Web, path: str, session: str = "") -> tuple[int, str, http.client.HTTPMessage]:
    line = http.client.HTTPConnection("127.0.0.1", web.port, timeout=60)
    line.request("GET", path, headers={"Cookie": f"sessionid={session}"} if session else {})
    answer = line.getresponse()
    return answer.status, answer.read().decode(), answer.headers


@pytest.fixture
def session(tcp_postgres: Postgres) -> str:
    client = Client()
    client.force_login(make_user("alice"))
    return client.cookies["sessionid"].value


def test_visitors_are_told_and_come_back_to_where_they_were(
    tcp_postgres: Postgres, session: str, start_web: Callable[..., Web]
) -> None:
    web = start_web()
    assert get(web, "/upload/", session)[0] == 200
    tcp_postgres.stop_at_once()
    for path in ("/", "/upload/", "/accounts/login/", "/no/such/page", "/admin/"):
        status, page, headers = get(web, path, session)
        assert (status, headers["Retry-After"]) == (503, "10"), path
        assert "cannot reach its database" in page and "Nothing that was saved is lost" in page
        assert "Traceback" not in page and "OperationalError" not in page
        assert headers["Content-Security-Policy"]
    for path in ("/api/v1/jobs/", "/api/models"):
        status, text, _ = get(web, path, session)
        assert (status, json.loads(text)["code"]) == (503, "database_away"), path
    assert get(web, "/healthz")[0] == 503
    assert get(web, "/about/terms/")[0] in (200, 503)
    tcp_postgres.start()
    assert get(web, "/upload/", session)[0] == 200  # still signed in, at the first try
    assert web.process.poll() is None


def test_jobs_go_on_when_the_database_was_away_for_longer_than_a_lease(
    tcp_postgres: Postgres, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker = start_worker()
    running, waiting = count_job(steps=40), count_job(steps=5)
    wait_for_steps(running, 5)
    tcp_postgres.stop_at_once()
    time.sleep(2 * LEASE)
    tcp_postgres.start()
    connection.close()
    for job in (running, waiting):
        assert_counted_once(job)
        assert job.crashes == 0
    assert worker.process.poll() is None


def test_a_short_absence_costs_a_job_nothing(
    tcp_postgres: Postgres, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker(JOB_LEASE_MS="20000")
    job = count_job(steps=40)
    wait_for_steps(job, 5)
    tcp_postgres.stop_at_once()
    time.sleep(1)
    tcp_postgres.start()
    connection.close()
    assert_counted_once(job)
    assert job.attempts <= 2

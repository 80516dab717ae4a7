"""The health checks of containers."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from hub_site.jobs.models import Worker
from tests.workers import ROOT


def probe(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hub_site.probe", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def something_else() -> Iterator[str]:
    """A server on our port that is not the site."""

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.django_db(transaction=True)
def test_a_web_process_that_answers_is_well_even_without_workers(
    live_server: Any, settings: Any
) -> None:
    settings.ALLOWED_HOSTS = ["commons.example"]
    address = f"127.0.0.1:{live_server.thread.port}"
    done = probe("web", address, ALLOWED_HOSTS="commons.example,other.example")
    assert done.returncode == 0, done.stderr
    assert "status: failing" in done.stdout and "cpu: none has reported" in done.stdout


def test_one_that_does_not_answer_is_not(something_else: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"127.0.0.1:{closed.getsockname()[1]}"
    for address in (gone, something_else):
        done = probe("web", address)
        assert done.returncode == 1
        assert done.stderr and "Traceback" not in done.stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("host", "silent_for", "status"),
    [(socket.gethostname(), 0, 0), (socket.gethostname(), 300, 1), ("elsewhere", 0, 1)],
)
def test_a_worker_is_well_when_it_reported_from_this_container(
    host: str, silent_for: int, status: int
) -> None:
    seen = timezone.now() - timedelta(seconds=silent_for)
    Worker.objects.create(name="w", host=host, pid=1, seen_at=seen)
    done = probe("worker")
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_database_a_worker_is_not_well() -> None:
    done = probe("worker", DATABASE_URL="postgresql://me:secret@127.0.0.1:1/none")
    assert done.returncode == 1
    assert "secret" not in done.stderr and "Traceback" not in done.stderr


def test_it_says_what_it_can_look_at() -> None:
    assert "worker, or web" in probe("database").stderr

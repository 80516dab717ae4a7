"""Real Celery workers against the test database and the test run's own broker folder."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hub_site.jobs.worker_name import pid_of

if TYPE_CHECKING:
    from hub_site.jobs.models import Job

ROOT = Path(__file__).resolve().parent.parent
SHORT = {
    "JOB_LEASE_MS": "3000",
    "JOB_HEARTBEAT_MS": "700",
    "JOB_REAPER_MS": "500",
    "JOB_REWAKE_MS": "1000",
    "JOB_DEAF_MS": "10000",
}
PATIENCE = 120  # seconds until a wait is given up; machines that run tests can be very slow


def wait_until(holds: Callable[[], object], what: str = "", patience: float = PATIENCE) -> None:
    until = time.monotonic() + patience
    while not holds():
        if time.monotonic() > until:
            pytest.fail(f"Waited {patience:g} seconds for {what or holds}")
        time.sleep(0.05)


def wait_for(job: "Job", *states: str) -> "Job":
    """Wait until the job is in one of the states, and return it fresh."""

    def there() -> bool:
        job.refresh_from_db()
        return job.state in states

    wait_until(there, f"job {job.pk} to be {' or '.join(states)}")
    return job


@dataclass
class WorkerProcess:
    """A worker: its main process and the children, in a process group of their own."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def is_ready(self) -> bool:
        from hub_site.jobs.models import Worker

        if self.process.poll() is not None:
            pytest.fail(f"The worker ended at once:\n{self.log.read_text()}")
        return Worker.objects.filter(pid=self.process.pid).exists()

    def kill_child(self, job: "Job") -> int:
        """SIGKILL the child that runs the job; returns its pid."""
        job.refresh_from_db()
        pid = pid_of(job.owner)
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill(self) -> None:
        """SIGKILL everything at once, as when the machine goes away."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM the main process and wait; returns the exit status."""
        self.process.terminate()
        return self.process.wait(timeout=PATIENCE)


def launch(log: Path, environment: Mapping[str, str], before: Sequence[str] = ()) -> WorkerProcess:
    """A worker as `make run` starts it, in a process group of its own."""
    command = [
        *before,
        *(sys.executable, "-m", "celery", "-A", "hub_site.celery", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--loglevel", "INFO"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return WorkerProcess(process, log)


@pytest.fixture
def start_worker(transactional_db: None, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """`start_worker()` starts a worker and waits until it has signed on.

    Short leases; keyword arguments are more environment variables, `before` a command that runs it.
    """
    from django.conf import settings

    started: list[WorkerProcess] = []
    (tmp_path / "tmp").mkdir()

    def start(*, before: Sequence[str] = (), **variables: str) -> WorkerProcess:
        environment = {
            **os.environ,
            **SHORT,
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(tmp_path / "tmp"),
            "VAR_DIR": str(settings.VAR_DIR),
            **variables,
        }
        log = tmp_path / f"worker-{len(started)}.log"
        worker = launch(log, environment, before)
        started.append(worker)
        wait_until(lambda: worker.is_ready, "the worker to sign on")
        return worker

    yield start
    for worker in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        print(f"--- {worker.log.name}\n{worker.log.read_text()}")  # shown when the test failed

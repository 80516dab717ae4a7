"""A site of a program's own, to break: PostgreSQL, a broker, workers, a tiny library and a task.

Two pairings: `embedded` is what `make run` has, the PostgreSQL under var/ and messages in a folder;
`redis` is PostgreSQL over TCP and Redis. Django is set up for it, so there is one in a process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

from tests.faults.servers import Postgres, Redis
from tests.workers import ROOT, SHORT, WorkerProcess, launch, wait_until

if TYPE_CHECKING:
    from composer.models import FewShotTask
    from hub_site.accounts.models import User
    from hub_site.jobs.models import Job

PAIRINGS = ("embedded", "redis")
OURS = ("BLOB_DIR", "BROKER_URL", "CACHE_DIR", "DATABASE_URL", "DEBUG", "FETCH_FROM", "HF_TOKEN")


class Stand:
    task: FewShotTask
    user: User

    def __init__(self, root: Path, pairing: str) -> None:
        self.root, self.var, self.pairing = root, root / "var", pairing
        self.workers: list[WorkerProcess] = []
        self.postgres = Postgres(self.var, over_tcp=pairing == "redis")
        self.redis = Redis(root) if pairing == "redis" else None

    def set_up(self, leases: dict[str, str]) -> None:
        (self.var / "tmp").mkdir(mode=0o700)
        for name in OURS:
            os.environ.pop(name, None)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
            "ENV_FILE": os.devnull,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "ENGINE_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "VAR_DIR": str(self.var),
            "TMPDIR": str(self.var / "tmp"),
            "LOG_LEVEL": "WARNING",
            **leases,
        }
        if self.redis is not None:
            os.environ |= {"DATABASE_URL": self.postgres.url, "BROKER_URL": self.redis.url}
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0, interactive=False)
        self._make_task()

    def _make_task(self) -> None:
        from composer import task_writing
        from tests import tiny
        from tests.composer.conftest import HELD_OUT, SHOTS, make_user

        tiny.make_library(self.root / "tiny")
        base, _ = tiny.load_library(self.root / "tiny")
        self.user = make_user("alice")
        self.task = task_writing.create_task(
            user=self.user,
            name="Opposites",
            base_model=base,
            template="opposite of {input} :",
            shots=SHOTS,
            held_out=HELD_OUT,
        )

    # --- jobs ----------------------------------------------------------------------------------

    def compose(self, *, budget: int, seed: int) -> Job:
        """CMA-ES, because Cobyla has converged on four modules before anybody can kill it."""
        from composer import services

        overrides: dict[str, Any] = {"budget": budget, "seed": seed}
        overrides |= {"population": 4, "optimiser": "cmaes"}
        return services.submit_job(task=self.task, user=self.user, overrides=overrides)

    # --- workers -------------------------------------------------------------------------------

    def start_worker(self, **variables: str) -> WorkerProcess:
        """Without waiting for it; `wait_for_workers` does."""
        log = self.root / f"worker-{len(self.workers)}.log"
        worker = launch(log, {**os.environ, **variables})
        self.workers.append(worker)
        return worker

    def wait_for_workers(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                wait_until(lambda w=worker: w.is_ready, "the worker to sign on")  # type: ignore[misc]

    # --- what goes wrong -----------------------------------------------------------------------

    def restart_database(self, away: float) -> None:
        from django.db import connection

        self.postgres.stop_at_once()
        time.sleep(away)
        self.postgres.start()
        connection.close()

    def wipe_broker(self, *, kill: bool) -> None:
        """Every message is gone; with `kill` Redis itself, and whoever was connected."""
        if self.redis is None:
            folder = self.var / "broker"
            shutil.rmtree(folder if kill else folder / "queue", ignore_errors=True)
        elif kill:
            self.redis.kill()
            time.sleep(0.5)
            self.redis.start()
        else:
            self.redis.forget()

    def close(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
        if self.redis is not None:
            self.redis.kill()
        self.postgres.close()


@contextmanager
def stand(pairing: str, leases: dict[str, str] = SHORT) -> Iterator[Stand]:
    """In a folder that PostgreSQL's own user can reach."""
    root = Path(tempfile.mkdtemp(prefix="commons-faults-"))
    root.chmod(0o711)
    try:
        made = Stand(root, pairing)
        try:
            made.set_up(leases)
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)

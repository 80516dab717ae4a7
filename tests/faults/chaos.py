"""What goes wrong, in an order drawn from a seed, while jobs come in and workers do them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from django.conf import settings
from django.db import transaction

from hub_site.jobs import queue
from hub_site.jobs.models import OVER, Job
from hub_site.jobs.worker_name import pid_of
from tests.faults.stand import Stand
from tests.workers import WorkerProcess, wait_until

WORKERS = 3
IN_FLIGHT = 6  # jobs queued or running
COMPOSITIONS = 2  # of those
BUDGET = 400
SEEDS = (3, 4)
SILENT = 10  # of so many submits one sends no message
BELLS = 12  # at a time
CALM = 180.0  # seconds in which all must have ended when nothing goes wrong any more

Action = Callable[[], bool]


@dataclass
class Chaos:
    stand: Stand
    kills: int
    seed: int
    jobs: list[Job] = field(default_factory=list)
    seeds: dict[str, int] = field(default_factory=dict)  # of the compositions, by job
    done: Counter[str] = field(default_factory=Counter)
    longest_goodbye: float = 0.0  # seconds from SIGTERM to the exit
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.living: list[WorkerProcess] = []
        self.frozen: list[tuple[float, WorkerProcess]] = []
        self.leaving: list[tuple[float, WorkerProcess]] = []

    def run(self) -> None:
        start = time.monotonic()
        deck, next_at = self._deck(), start
        self.living = [self.stand.start_worker() for _ in range(WORKERS)]
        while deck:
            self._submit_what_is_missing()
            self._look_after_workers()
            if time.monotonic() >= next_at:
                name, act = deck.pop()
                if act():
                    self.done[name] += 1
                    next_at = time.monotonic() + self.random.uniform(0.4, 1.6)
                else:  # nobody to do it to, for now
                    deck.insert(self.random.randrange(len(deck) + 1), (name, act))
            time.sleep(0.05)
        wait_until(self._is_calm, "every job to end", CALM)
        self.seconds = time.monotonic() - start

    def _deck(self) -> list[tuple[str, Action]]:
        """Mostly children are killed, as by the kernel for lack of memory."""
        worker, main = self.kills // 6, self.kills // 10
        deck: list[tuple[str, Action]] = [
            *[("kill of a child", self._kill_child)] * (self.kills - worker - main),
            *[("kill of a whole worker", self._kill_worker)] * worker,
            *[("kill of a main process", self._kill_main)] * main,
            *[("broker wiped", self._wipe_broker)] * max(4, self.kills // 30),
            *[("database restarted at once", self._restart_database)] * max(2, self.kills // 40),
            *[("pause longer than the lease", self._freeze)] * max(3, self.kills // 20),
            *[("SIGTERM", self._terminate)] * max(5, self.kills // 12),
            *[("burst of needless wake-ups", self._ring)] * max(5, self.kills // 12),
            *[("cancel", self._cancel)] * max(2, self.kills // 25),
        ]
        self.random.shuffle(deck)
        return deck

    # --- jobs ----------------------------------------------------------------------------------

    def _submit_what_is_missing(self) -> None:
        open_jobs = Job.objects.exclude(state__in=OVER)
        compositions = open_jobs.filter(kind="compose").count()
        for _ in range(IN_FLIGHT - open_jobs.count()):
            with transaction.atomic():
                if compositions < COMPOSITIONS:
                    compositions += 1
                    seed = SEEDS[len(self.seeds) % len(SEEDS)]
                    job = self.stand.compose(budget=BUDGET, seed=seed)
                    self.seeds[str(job.pk)] = seed
                else:
                    params = {"steps": self.random.randint(20, 60), "seconds": 0.1}
                    job = queue.submit("test_count", params=params)
                self.jobs.append(job)
                if len(self.jobs) % SILENT == 0:
                    # As when the web process dies between the commit and the message.
                    transaction.get_connection().run_on_commit.clear()
                    self.done["submit without a message"] += 1

    def _is_calm(self) -> bool:
        self._look_after_workers()
        return not Job.objects.exclude(state__in=OVER).exists() and not self.leaving

    # --- workers -------------------------------------------------------------------------------

    def _look_after_workers(self) -> None:
        now = time.monotonic()
        for until, worker in list(self.frozen):
            if now >= until:
                os.killpg(worker.process.pid, signal.SIGCONT)
                self.frozen.remove((until, worker))
                self.living.append(worker)
        for since, worker in list(self.leaving):
            if worker.process.poll() is not None:
                self.leaving.remove((since, worker))
                self.longest_goodbye = max(self.longest_goodbye, now - since)
                if worker.process.returncode:
                    self.done["worker ended by itself or badly"] += 1
        for worker in list(self.living):
            if worker.process.poll() is not None:
                self.done["worker ended by itself or badly"] += 1
                self._replace(worker)

    def _replace(self, worker: WorkerProcess) -> None:
        self.living.remove(worker)
        self.living.append(self.stand.start_worker())

    def _at_work(self) -> list[tuple[WorkerProcess, Job]]:
        """The workers whose child runs a job, and which job."""
        mains = {worker.process.pid: worker for worker in self.living}
        running = Job.objects.filter(state="running").exclude(owner="")
        found = [(mains.get(int(job.owner.split(":")[1])), job) for job in running]
        return [(worker, job) for worker, job in found if worker is not None]

    def _one_at_work(self) -> WorkerProcess | None:
        found = self._at_work()
        return self.random.choice(found)[0] if found else None

    # --- what goes wrong -----------------------------------------------------------------------

    def _kill_child(self) -> bool:
        """Not for the fourth time in a row without progress: such a job is poison, and fails."""
        found = [job for _, job in self._at_work() if job.crashes + 1 < settings.JOB_MAX_CRASHES]
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid_of(self.random.choice(found).owner), signal.SIGKILL)
            return True
        return False

    def _kill_worker(self) -> bool:
        worker = self._one_at_work()
        if worker is None:
            return False
        worker.kill()
        self._replace(worker)
        return True

    def _kill_main(self) -> bool:
        worker = self._one_at_work()
        if worker is None:
            return False
        worker.process.kill()
        worker.process.wait()
        self._replace(worker)
        return True

    def _terminate(self) -> bool:
        worker = self._one_at_work()
        if worker is None:
            return False
        worker.process.terminate()
        self.leaving.append((time.monotonic(), worker))
        self._replace(worker)
        return True

    def _freeze(self) -> bool:
        worker = self._one_at_work()
        if worker is None or self.frozen:
            return False
        os.killpg(worker.process.pid, signal.SIGSTOP)
        self.living.remove(worker)
        pause = settings.JOB_LEASE_SECONDS * self.random.uniform(1.3, 2.0)
        self.frozen.append((time.monotonic() + pause, worker))
        return True

    def _wipe_broker(self) -> bool:
        self.stand.wipe_broker(kill=self.done["broker wiped"] % 2 == 1)
        return True

    def _restart_database(self) -> bool:
        self.stand.restart_database(away=self.random.uniform(0.2, 1.0))
        return True

    def _ring(self) -> bool:
        open_jobs = list(Job.objects.exclude(state__in=OVER))
        for job in self.random.choices(open_jobs, k=BELLS if open_jobs else 0):
            queue.ring(job)
            self.done["needless wake-up"] += 1
        return bool(open_jobs)

    def _cancel(self) -> bool:
        open_jobs = list(Job.objects.filter(kind="test_count").exclude(state__in=OVER))
        if not open_jobs:
            return False
        queue.request_cancel(self.random.choice(open_jobs))
        return True

"""How soon jobs start, stop, and go on after a death: real workers on a site of their own.

    python -m benchmarks.reliability [--pairing embedded|redis] [--times 20] [--leases short|real]

One worker waits for jobs, a second one where somebody has to take over. Times are between the
moment a signal or a request is sent and the event in the database; a step of the counting job
stands for a generation. `short` leases are those of the fault tests (3 s, heartbeat 0.7 s, reaper
0.5 s), `real` ones what the site has by default (30, 7 and 5 s).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.faults.stand import PAIRINGS, Stand, stand
from tests.workers import SHORT, WorkerProcess, wait_for, wait_until

if TYPE_CHECKING:
    from hub_site.jobs.models import Job

STEP = 0.5  # seconds, of what stands for a generation
BUSY = {"steps": 10_000, "seconds": STEP}


@dataclass
class Row:
    what: str
    seconds: list[float]
    promised: str = ""
    bound: float | None = None  # what all of them keep, or so many of a hundred
    of_hundred: int = 100

    def __str__(self) -> str:
        kept = ""
        if self.bound is not None:
            kept = "yes" if self.at(self.of_hundred) <= self.bound else "**no**"
        figures = " | ".join(_figure(self.at(percent)) for percent in (50, 95, 100))
        return f"| {self.what} | {len(self.seconds)} | {figures} | {self.promised} | {kept} |"

    def at(self, percent: int) -> float:
        ordered = sorted(self.seconds)
        return ordered[-(-len(ordered) * percent // 100) - 1]


def _figure(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairing", choices=PAIRINGS, default="embedded")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--leases", choices=["short", "real"], default="short")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave nothing running
    with stand(options.pairing, SHORT if options.leases == "short" else {}) as made:
        print("| what | times | p50 | p95 | most | promised | kept |")
        print("|---|--:|--:|--:|--:|---|---|")
        for row in Measured(made, options.times).rows():
            print(row, flush=True)


class Measured:
    def __init__(self, made: Stand, times: int) -> None:
        from django.conf import settings

        self.made, self.times = made, times
        self.take_over = settings.JOB_LEASE_SECONDS + settings.JOB_REAPER_SECONDS + 2
        self.latency = 0.3 if made.pairing == "redis" else 0.5

    def rows(self) -> Iterator[Row]:
        promised = f"p95 {1000 * self.latency:.0f} ms"
        yield Row("submit → running", self._starts(), promised, self.latency, of_hundred=95)
        yield Row("cancel → cancelled", self._cancels(), "a generation + 1 s", STEP + 1)
        yield Row("child killed → another runs it", self._child_deaths())
        yield Row(
            "worker killed → another runs it",
            self._deaths(WorkerProcess.kill),
            "lease + reaper + 2 s",
            self.take_over,
        )
        yield Row(
            "worker frozen → another runs it",
            self._deaths(lambda worker: os.killpg(worker.process.pid, signal.SIGSTOP)),
            "lease + reaper + 2 s",
            self.take_over,
        )
        yield Row("SIGTERM → exit", self._goodbyes(), "a generation + 5 s", STEP + 5)
        yield Row("SIGTERM while a search loads torch → exit", self._goodbyes_of_loading())
        alone, beside = self._beside_poison()
        yield Row("a job waits for two others", alone)
        yield Row("the same, and one is poison", beside, "1 s more", max(alone) + 1)

    # --- jobs ----------------------------------------------------------------------------------

    def submit(self, kind: str = "test_count", **params: object) -> tuple[Job, float]:
        from hub_site.jobs import queue

        sent = time.time()
        return queue.submit(kind, params=params or {"steps": 1, "seconds": 0}), sent

    def when(self, job: Job, name: str, *, after: float = 0) -> float:
        """When the database saw it."""
        from hub_site.jobs.models import JobEvent

        def found() -> list[float]:
            events = JobEvent.objects.filter(job=job, name=name).order_by("id")
            return [at for event in events if (at := event.at.timestamp()) > after]

        wait_until(found, f"the job to be {name}")
        return found()[0]

    def stop_busy(self, job: Job) -> None:
        from hub_site.jobs import queue

        queue.request_cancel(job)
        wait_for(job, "cancelled")

    def fresh(self, count: int = 1) -> list[WorkerProcess]:
        """So many workers, and no others; each has done a job."""
        for worker in self.made.workers:
            if worker.process.poll() is None:
                worker.kill()
        workers = [self.made.start_worker() for _ in range(count)]
        self.made.wait_for_workers()
        for job, _ in [self.submit() for _ in range(2 * count)]:
            wait_for(job, "done")
        return workers

    # --- what is measured ----------------------------------------------------------------------

    def _starts(self) -> list[float]:
        self.fresh()
        seconds = []
        for _ in range(5 * self.times):
            job, sent = self.submit()
            seconds.append(self.when(job, "claimed") - sent)
            wait_for(job, "done")
            time.sleep(0.2)  # until the worker waits again
        return seconds

    def _cancels(self) -> list[float]:
        self.fresh()
        seconds = []
        for _ in range(self.times):
            job, _ = self.submit(**BUSY)
            self.when(job, "step")
            asked = time.time()
            self.stop_busy(job)
            seconds.append(self.when(job, "cancelled") - asked)
        return seconds

    def _child_deaths(self) -> list[float]:
        (worker,) = self.fresh()
        job, _ = self.submit(**BUSY)
        seconds = []
        for _ in range(self.times):
            self.when(job, "step", after=time.time())
            died = time.time()
            worker.kill_child(job)
            seconds.append(self.when(job, "claimed", after=died) - died)
        self.stop_busy(job)
        return seconds

    def _deaths(self, end: Callable[[WorkerProcess], object]) -> list[float]:
        first, second = self.fresh(2)
        seconds = []
        for _ in range(max(3, self.times // 2)):
            job, _ = self.submit(**BUSY)
            self.when(job, "step")
            job.refresh_from_db()
            workers = {w.process.pid: w for w in (first, second)}
            at_work = workers.pop(int(job.owner.split(":")[1]))
            died = time.time()
            end(at_work)
            seconds.append(self.when(job, "claimed", after=died) - died)
            self.stop_busy(job)
            if at_work.process.poll() is None:
                at_work.kill()
            first, second = *workers.values(), self.made.start_worker()
            self.made.wait_for_workers()
        return seconds

    def _goodbyes(self) -> list[float]:
        seconds = []
        for _ in range(max(3, self.times // 2)):
            (worker,) = self.fresh()
            job, _ = self.submit(**BUSY)
            self.when(job, "step")
            told = time.monotonic()
            assert worker.stop() == 0
            seconds.append(time.monotonic() - told)
            self.stop_busy(job)
        return seconds

    def _goodbyes_of_loading(self) -> list[float]:
        from hub_site.jobs import queue

        seconds = []
        for number in range(max(3, self.times // 2)):
            (worker,) = self.fresh()
            job = self.made.compose(budget=800, seed=number)
            self.when(job, "claimed")
            time.sleep(0.3)
            told = time.monotonic()
            assert worker.stop() == 0
            seconds.append(time.monotonic() - told)
            queue.request_cancel(job)  # a short lease may have run out while torch was loaded
        return seconds

    def _beside_poison(self) -> tuple[list[float], list[float]]:
        """How long a job waits that was submitted after two others, of which one may be poison."""
        self.fresh()
        alone, beside = [], []
        for number in range(2 * max(3, self.times // 2)):
            poisoned = number % 2 == 1
            kind, params = ("test_poison", {}) if poisoned else ("test_count", {"steps": 1})
            first, _ = self.submit(kind, **params)
            second, _ = self.submit(steps=2, seconds=0.2)
            third, sent = self.submit(steps=2, seconds=0.2)
            (beside if poisoned else alone).append(self.when(third, "claimed") - sent)
            for job in (first, second, third):
                wait_for(job, "done", "failed")
            if poisoned:
                assert (first.state, first.attempts) == ("failed", 4), first
        return alone, beside


if __name__ == "__main__":
    main()

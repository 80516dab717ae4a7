"""Job kinds that exist only in the tests, for the queue and for real workers alike."""

import os
import signal
import time
from pathlib import Path

from composer.engine.errors import CommonsError
from hub_site.jobs import capacity, queue
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.worker import Lease


def steps_of(job: Job) -> list[int]:
    return [e.detail["n"] for e in JobEvent.objects.filter(job_id=job.pk, name="step")]


def count(job: Job, lease: Lease) -> None:
    """Count to params["steps"], one checkpoint a step, going on where the last one stands."""
    for n in range(len(steps_of(job)), job.params["steps"]):
        lease.check()
        time.sleep(job.params.get("seconds", 0.0))
        with queue.checkpoint(job):
            JobEvent.objects.create(job_id=job.pk, fence=job.fence, name="step", detail={"n": n})
    with queue.finish(job, {"counted": steps_of(job)}):
        pass


def poison(job: Job, lease: Lease) -> None:
    """Kill the process, like running out of memory does; params["times"] times, then be good."""
    if job.attempts <= job.params.get("times", 1_000):
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def refuse(job: Job, lease: Lease) -> None:
    raise CommonsError("These examples are too long. Shorten them.")


def bug(job: Job, lease: Lease) -> None:
    raise ZeroDivisionError("a bug of ours")


def idle(job: Job, lease: Lease) -> None:
    """Wait until told to stop, or for a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        lease.check()
        time.sleep(0.02)


def shy(job: Job, lease: Lease) -> None:
    """Step back as long as somebody more important waits."""
    mark(job, lease)
    lease.give_way()


def mark(job: Job, lease: Lease) -> None:
    """Leave a line in a file, so that a test sees who ran when."""
    with Path(job.params["file"]).open("a") as file:
        file.write(f"{job.params['line']}\n")


def warm(job: Job, lease: Lease) -> None:
    """Keep what the job needs loaded, as a worker keeps a base model."""
    capacity.keep_warm((job.needs["warm"],))
    time.sleep(job.params.get("seconds", 0.0))


def hold(job: Job, lease: Lease) -> None:
    """At the first try, stay in the middle of a checkpoint, with the row locked."""
    if job.attempts == 1:
        with queue.checkpoint(job):
            mark(job, lease)
            time.sleep(120)

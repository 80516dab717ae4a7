"""What a worker has, what a job needs, and who is there to do it.

No torch here: the main process, which asks first and hands the answer to its children, must not
touch a GPU before it forks.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from django.conf import settings
from django.db.models.functions import Now

from hub_site.figures import size
from hub_site.jobs.worker_name import main_name, main_name_of

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from hub_site.jobs.models import Job, Worker

VARIABLE = "COMMONS_WORKER_HAS"  # set by a worker's main process for its children
CPU, GPU, STORE = "cpu", "gpu", "store"
ASK_SECONDS = 10


@dataclass(frozen=True)
class Capacity:
    """queues: those it takes jobs from. memory: bytes of RAM that it may use; gpu_memory: of its
    GPU, 0 without one. has_store: it shares the site's disk."""

    device: str
    memory: int
    gpu_memory: int
    queues: tuple[str, ...]
    has_store: bool

    @property
    def has_gpu(self) -> bool:
        return self.gpu_memory > 0


def of_this_process() -> Capacity:
    """A child has what its main process found; every other process looks for itself."""
    if told := os.environ.get(VARIABLE):
        found = json.loads(told)
        return Capacity(**{**found, "queues": tuple(found["queues"])})
    return _found(bool(settings.FETCH_FROM), tuple(settings.WORKER_QUEUES))


def hand_to_children() -> Capacity:
    found = of_this_process()
    os.environ[VARIABLE] = json.dumps(asdict(found))
    return found


@lru_cache
def _found(is_far: bool, queues: tuple[str, ...]) -> Capacity:
    from composer.engine.memory import total_ram

    device, gpu_memory = _gpu() or (CPU, 0)
    if queues and GPU not in queues:
        device, gpu_memory = CPU, 0
    takes = queues or ((GPU, CPU) if gpu_memory else (CPU,))
    return Capacity(device, total_ram(), gpu_memory, takes, not is_far)


def _gpu() -> tuple[str, int] | None:
    """Name and bytes of the first GPU that CUDA would show this process, as its driver says."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if not first or first.startswith("-"):
        return None
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=name,memory.total"]
    command += ["--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=ASK_SECONDS, check=True
        )
        name, megabytes = answer.stdout.strip().splitlines()[0].rsplit(",", 1)
        return name.strip(), int(megabytes) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


# --- what is kept warm --------------------------------------------------------------------------
_warm: tuple[str, ...] = ()


def warm_here() -> tuple[str, ...]:
    """What this process has in memory, by the names that jobs call it by in `needs["warm"]`."""
    return _warm


def keep_warm(names: tuple[str, ...]) -> None:
    """Say what this process has in memory from now on."""
    global _warm
    if names == _warm:
        return
    _warm = names
    from hub_site.jobs.models import Worker

    Worker.objects.filter(name=main_name()).update(warm=list(names))


# --- the workers there are ----------------------------------------------------------------------
def live_workers() -> QuerySet[Worker]:
    """Those that said something within one lease."""
    from hub_site.jobs.models import Worker

    lease = timedelta(seconds=settings.JOB_LEASE_SECONDS)
    return Worker.objects.filter(seen_at__gt=Now() - lease)


def idle_and_warm(but: str = "") -> dict[str, str]:
    """What free workers keep warm -> a worker's name; `but` is left out."""
    from hub_site.jobs.models import Job

    there = [worker for worker in live_workers().exclude(name=but) if worker.warm]
    if not there:
        return {}
    owners = Job.objects.filter(state="running").values_list("owner", flat=True)
    busy = {main_name_of(owner) for owner in owners}
    return {key: worker.name for worker in there if worker.name not in busy for key in worker.warm}


def can_do(worker: Worker, job: Job) -> bool:
    return not _misfit(worker, job)


def why_nobody(job: Job) -> str:
    """Why a job that waits would wait for ever, in words; empty where some worker can do it."""
    there = list(live_workers())
    if not there:
        return (
            "No worker is running at the moment. The job waits, and starts by itself as soon as "
            "one is back."
        )
    reasons = [_misfit(worker, job) for worker in there]
    if not all(reasons):
        return ""
    # The worker that comes nearest says best what is missing.
    return max(reasons)[-1] + " The job waits until one comes; you can cancel it meanwhile."


def _misfit(worker: Worker, job: Job) -> tuple[int, int, str] | None:
    """What this worker lacks for the job, in words, after two numbers of how near it comes."""
    from hub_site.jobs.queue import needs_store

    if job.schema > worker.schema:
        return 1, 0, "This job was submitted by a newer version of the site than its workers have."
    if job.queue not in worker.queues:
        what = "a GPU" if job.queue == GPU else f"a worker for the queue “{job.queue}”"
        return 2, 0, f"This job needs {what}, and no worker that is running has one."
    if needs_store(job) and STORE not in worker.queues:
        return 3, 0, "This job needs a worker beside the site's own disk, and none is running."
    needed = job.needs.get("gpu_memory" if GPU in worker.queues else "memory", 0)
    if needed > worker.memory:
        return (
            4,
            worker.memory,
            (
                f"This job needs about {size(needed)} of memory; the largest worker that is running "
                f"has {size(worker.memory)}. Fewer modules or shorter examples need less."
            ),
        )
    return None

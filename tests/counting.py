"""A job that counts, and what must hold for it whatever is killed meanwhile."""

from typing import Any

from hub_site.jobs import queue
from hub_site.jobs.models import Job, JobEvent
from hub_site.jobs.worker_name import pid_of
from tests.job_kinds import steps_of
from tests.workers import wait_for, wait_until


def count_job(steps: int = 40, seconds: float = 0.1, **options: Any) -> Job:
    return queue.submit("test_count", params={"steps": steps, "seconds": seconds}, **options)


def wait_for_steps(job: Job, number: int) -> None:
    wait_until(lambda: len(steps_of(job)) >= number, f"{number} steps")


def names(job: Job) -> list[str]:
    return [event.name for event in JobEvent.objects.filter(job=job) if event.name != "step"]


def assert_counted_once(job: Job) -> None:
    """Each step once, in order, by claims whose fences only grow."""
    wait_for(job, "done", "failed", "cancelled")
    steps = job.params["steps"]
    assert (job.state, job.result) == ("done", {"counted": list(range(steps))})
    fences = list(JobEvent.objects.filter(job=job, name="step").values_list("fence", flat=True))
    assert len(fences) == steps
    assert fences == sorted(fences)
    assert names(job).count("done") == 1


def runs_elsewhere(job: Job, dead: int) -> bool:
    job.refresh_from_db()
    return job.state == "running" and pid_of(job.owner) != dead

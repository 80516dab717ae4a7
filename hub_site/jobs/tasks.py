"""The doorbell. It carries nothing: the worker claims the next job itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import shared_task

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease


@shared_task
def wake() -> None:
    from hub_site.jobs.worker import work_until_idle

    work_until_idle()


def prune_jobs(job: Job, lease: Lease) -> None:
    """Thin what is known of jobs that ended long ago."""
    from hub_site.jobs import queue, retention

    done = retention.prune(retention.last_until(job.kind))
    found = {"deleted": done.jobs, "events": done.events, "until": done.until.isoformat()}
    with queue.finish(job, found):
        pass

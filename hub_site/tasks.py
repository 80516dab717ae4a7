"""What workers do for the frame. The jobs' registry knows these by their dotted paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease


def prune_throttles(job: Job, lease: Lease) -> None:
    """Forget whoever has been quiet for long enough that nothing is counted any more."""
    from hub_site import throttles
    from hub_site.jobs import queue

    with queue.finish(job, {"deleted": throttles.prune()}):
        pass

"""What workers do for accounts. The jobs' registry knows these by their dotted paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease


def prune_guests(job: Job, lease: Lease) -> None:
    """Forget guests who made nothing for GUEST_DAYS days."""
    from hub_site.accounts import guests
    from hub_site.jobs import queue

    deleted = guests.prune()  # one by one; a second run goes on where this one stopped
    with queue.finish(job, {"deleted": deleted}):
        pass


def prune_notices(job: Job, lease: Lease) -> None:
    """Clear away notices that were read long ago."""
    from hub_site.accounts import notices
    from hub_site.jobs import queue

    with queue.finish(job, {"deleted": notices.prune()}):
        pass


def prune_sessions(job: Job, lease: Lease) -> None:
    """Clear away sessions that have run out."""
    from django.contrib.sessions.models import Session
    from django.db.models.functions import Now

    from hub_site.jobs import queue

    deleted, _ = Session.objects.filter(expire_date__lt=Now()).delete()
    with queue.finish(job, {"deleted": deleted}):
        pass

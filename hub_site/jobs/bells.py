"""Celery's queues: each is a bell that some workers hear.

One for every worker of a kind of device, and one for those of them that share the site's disk. With
Redis every worker has a bell of its own as well, so that one which is warm for a job can be woken
before others; on the folder broker, where each name would leave a file, there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from hub_site.jobs import capacity

if TYPE_CHECKING:
    from hub_site.jobs.capacity import Capacity
    from hub_site.jobs.models import Job


def of_all(queue: str, needs_store: bool) -> str:
    """The bell of all workers that take jobs of this queue."""
    return f"{queue}-{capacity.STORE}" if needs_store else queue


def of_worker(name: str) -> str:
    return f"worker-{name}"


def heard_by(has: Capacity) -> list[str]:
    """A worker without the site's disk does not hear the bells of jobs that need it: a message that
    it took would be missing to those who could do them."""
    found = [of_all(queue, False) for queue in has.queues]
    if has.has_store:
        found += [of_all(queue, True) for queue in has.queues]
    return found


def are_single() -> bool:
    """Whether workers have bells of their own."""
    return settings.CELERY_BROKER_URL.startswith("redis")


def of_warm(job: Job) -> str | None:
    """That of a free worker which has loaded what the job needs."""
    key = job.needs.get("warm")
    if not key or not are_single():
        return None
    name = capacity.idle_and_warm().get(key)
    return of_worker(name) if name else None

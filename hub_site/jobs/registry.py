"""Which code does which kind of job. Apps say so in `AppConfig.ready`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease

Handler = Callable[["Job", "Lease"], None]

_paths: dict[str, str] = {}
_if_stopped: dict[str, str] = {}
_if_over: dict[str, str] = {}


def register(kind: str, handler: str, if_stopped: str = "", if_over: str = "") -> None:
    """`handler` is a dotted path, so that the web process never imports what a worker needs.

    `if_stopped`, a path to a function of the job, is called in the transaction that makes the job
    failed or cancelled: for kinds that leave something waiting for their end. `if_over`, a path to
    a function of the job and its final state, is called last in that transaction or in the one
    that makes the job done: for kinds whose end somebody should hear of.
    """
    if _paths.setdefault(kind, handler) != handler:
        raise ValueError(f"The job kind {kind!r} is already done by {_paths[kind]}.")
    if if_stopped:
        _if_stopped[kind] = if_stopped
    if if_over:
        _if_over[kind] = if_over


def is_known(kind: str) -> bool:
    return kind in _paths


def handler_of(kind: str) -> Handler:
    if kind not in _paths:
        raise LookupError(f"No handler is registered for the job kind {kind!r}.")
    handler: Handler = import_string(_paths[kind])
    return handler


def stopped(job: "Job") -> None:
    """Tell whoever waits that this job failed or was cancelled."""
    if path := _if_stopped.get(job.kind):
        import_string(path)(job)


def over(job: "Job", state: str) -> None:
    """Tell whoever wants to hear of it that this job is done, failed or cancelled."""
    if path := _if_over.get(job.kind):
        import_string(path)(job, state)

"""Which code does which kind of job. Apps say so in `AppConfig.ready`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.module_loading import import_string

if TYPE_CHECKING:
    from hub_site.jobs.models import Job
    from hub_site.jobs.worker import Lease

Handler = Callable[["Job", "Lease"], None]


@dataclass(frozen=True)
class Kind:
    handler: str
    if_stopped: str = ""
    if_over: str = ""
    reads: str = ""
    leaves_files: bool = False
    needs_store: bool = False


_kinds: dict[str, Kind] = {}


def register(
    kind: str,
    handler: str,
    if_stopped: str = "",
    if_over: str = "",
    *,
    reads: str = "",
    leaves_files: bool = False,
    needs_store: bool = False,
) -> None:
    """`handler` is a dotted path, so that the web process never imports what a worker needs.

    `if_stopped`, a path to a function of the job, is called in the transaction that makes the job
    failed or cancelled: for kinds that leave something waiting for their end. `if_over`, a path to
    a function of the job and its final state, is called last in that transaction or in the one
    that makes the job done: for kinds whose end somebody should hear of.

    For workers without the site's disk (`FETCH_FROM`): `reads` is a path to a function of the job
    that gives the commits it may read with its token; `leaves_files` lets it send files to the
    store; a kind that `needs_store` is left to workers that have the store itself.
    """
    found = Kind(handler, if_stopped, if_over, reads, leaves_files, needs_store)
    known = _kinds.setdefault(kind, found)
    if known.handler != handler:
        raise ValueError(f"The job kind {kind!r} is already done by {known.handler}.")


def kinds() -> list[str]:
    return sorted(_kinds)


def is_known(kind: str) -> bool:
    return kind in _kinds


def _kind(kind: str) -> Kind:
    if kind not in _kinds:
        raise LookupError(f"No handler is registered for the job kind {kind!r}.")
    return _kinds[kind]


def handler_of(kind: str) -> Handler:
    handler: Handler = import_string(_kind(kind).handler)
    return handler


def stopped(job: "Job") -> None:
    """Tell whoever waits that this job failed or was cancelled."""
    if is_known(job.kind) and (path := _kind(job.kind).if_stopped):
        import_string(path)(job)


def over(job: "Job", state: str) -> None:
    """Tell whoever wants to hear of it that this job is done, failed or cancelled."""
    if is_known(job.kind) and (path := _kind(job.kind).if_over):
        import_string(path)(job, state)


# --- for workers without the site's disk --------------------------------------------------------


def reads(job: "Job") -> Any:
    """The commits that this job may read, as a queryset; None for a kind that reads none."""
    path = _kind(job.kind).reads
    return import_string(path)(job) if path else None


def leaves_files(kind: str) -> bool:
    return _kind(kind).leaves_files


def store_kinds() -> list[str]:
    """The kinds that only a worker with the site's own store does."""
    return sorted(name for name, kind in _kinds.items() if kind.needs_store)

"""What every stage of a composition works with and writes down. Only workers import this."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from composer.engine.base_model import BaseModel
from composer.engine.config import SearchConfig
from composer.engine.errors import CommonsError
from composer.engine.examples import Example
from composer.engine.prompt import Template
from composer.models import Search
from hub_site.jobs import queue
from hub_site.jobs.models import Job

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease


class NothingFound(CommonsError):
    code = "nothing_found"


@dataclass(frozen=True)
class Given:
    """What a search is about: its base model, loaded, and its examples."""

    base: BaseModel
    shots: list[Example]
    held_out: list[Example]
    options: list[str] | None
    template: Template
    config: SearchConfig


@dataclass
class Run:
    """A job's record while a worker has it; every result is written under the job's fence."""

    job: Job
    lease: "Lease"
    search: Search

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.lease.check()
        self.show(stage=name, stage_detail="")
        start = time.perf_counter()
        yield
        seconds = self.search.evidence.setdefault("seconds", {})
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)

    def show(self, **fields: str) -> None:
        """Not a checkpoint: a job that dies in a stage again and again makes no progress."""
        ours = Search.objects.filter(
            pk=self.job.pk, job__fence=self.job.fence, job__state="running"
        )
        ours.update(**fields)

    def note(self, **parts: Any) -> None:
        """Keep a part of the evidence, so that it is measured once."""
        self.search.evidence = {**self.search.evidence, **parts}
        with queue.checkpoint(self.job):
            Search.objects.filter(pk=self.job.pk).update(evidence=self.search.evidence)

    def settle(self, spec: dict[str, Any], **evidence: Any) -> None:
        """What of the spec only a worker can find out. It is the same whoever finds it."""
        self.search.spec = spec
        self.search.evidence = {**self.search.evidence, **evidence}
        with queue.checkpoint(self.job):
            Search.objects.filter(pk=self.job.pk).update(spec=spec, evidence=self.search.evidence)


def storable(answer: str) -> str:
    """Byte-level models can say NUL, which PostgreSQL's text cannot hold."""
    return answer.replace("\0", "\ufffd")

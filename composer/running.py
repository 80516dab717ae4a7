"""What every stage of a composition works with and writes down. Only workers import this."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from composer.engine.base_model import BaseModel
from composer.engine.config import SearchConfig
from composer.engine.errors import CommonsError
from composer.engine.examples import Example
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.models import Search
from hub_site.figures import LARGEST
from hub_site.jobs import queue
from hub_site.jobs.models import Job

if TYPE_CHECKING:
    from hub_site.jobs.worker import Lease

LARGEST_LOSS = LARGEST


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

    @property
    def precision(self) -> str:
        return str(self.base.fingerprint()["dtype"])


@dataclass(frozen=True)
class Round:
    """One search, and the examples that it is measured on: the one that makes the recipe, or that
    of a fold, which is fitted on all examples but a part and measured on that part.

    name  "" for the one that makes the recipe, "1" to "k" for the folds
    """

    name: str
    given: Given
    objective: Objective

    @property
    def control(self) -> str:
        """The round of the same search over randomised modules."""
        return f"{self.name} control".strip()


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
        self.search.evidence = {**self.search.evidence, **finite(parts)}
        with queue.checkpoint(self.job):
            Search.objects.filter(pk=self.job.pk).update(evidence=self.search.evidence)

    def noted(self, round_: Round) -> dict[str, Any]:
        """The part of the evidence that is a round's own."""
        evidence = self.search.evidence
        found: dict[str, Any] = (
            evidence.get("folds", {}).get(round_.name, {}) if round_.name else evidence
        )
        return found

    def note_in(self, round_: Round, **parts: Any) -> None:
        if not round_.name:
            self.note(**parts)
            return
        folds = self.search.evidence.get("folds", {})
        self.note(folds={**folds, round_.name: {**self.noted(round_), **parts}})

    def settle(self, spec: dict[str, Any], **evidence: Any) -> None:
        """What of the spec only a worker can find out. It is the same whoever finds it."""
        self.search.spec = spec
        self.search.evidence = {**self.search.evidence, **finite(evidence)}
        with queue.checkpoint(self.job):
            Search.objects.filter(pk=self.job.pk).update(spec=spec, evidence=self.search.evidence)


def finite(value: Any) -> Any:
    """As JSON can say it: losses that are infinite or no number count as very many nats."""
    if isinstance(value, float) and not math.isfinite(value):
        return LARGEST_LOSS
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def storable(answer: str) -> str:
    """Byte-level models can say NUL, which PostgreSQL's text cannot hold."""
    return answer.replace("\0", "\ufffd")

"""What a job's page shows while it runs, read from its rows; no torch, a handful of queries."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from django.db.models import F

from composer.engine.recipe import module_weights
from composer.models import Generation, Search
from hub_site.jobs import expect, queue

STAGES = {
    "preparing": "Fetching the base model and the modules",
    "ranking": "Measuring each module alone on your examples",
    "searching": "Searching for weights",
    "measuring": "Measuring on the held-out examples",
    "building": "Building the adapter",
}
# With so many jobs ahead at most, a page asks again after so many seconds.
LOOKS = ((0, 1), (9, 2), (math.inf, 5))


@dataclass(frozen=True)
class ModuleWeight:
    name: str
    weight: float


@dataclass(frozen=True)
class LossPoint:
    generation: int
    evaluations: int
    best_loss: float


@dataclass(frozen=True)
class Progress:
    """`stage` is a key of STAGES, or "" before the worker began and after the end."""

    state: str
    queue_position: int | None
    starts_in: float | None  # seconds, for a job that waits, where it can be guessed
    held_back: bool  # its user has as many running as one may have
    stage: str
    stage_detail: str
    generation: int
    evaluations: int
    budget: int
    best_loss: float | None
    first_loss: float | None
    evaluations_per_second: float | None
    seconds_left: float | None
    curve: list[LossPoint] = field(default_factory=list)
    weights: list[ModuleWeight] = field(default_factory=list)

    @property
    def stage_name(self) -> str:
        return STAGES.get(self.stage, "")

    @property
    def fraction(self) -> float:
        return min(1.0, self.evaluations / self.budget) if self.budget else 0.0

    @property
    def next_look(self) -> int:
        """Seconds until a page asks again. Far back in the queue there is little to see, and the
        pages that wait there are many."""
        ahead = (self.queue_position or 1) - 1
        return next(seconds for most, seconds in LOOKS if ahead <= most)

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


def progress(search: Search) -> Progress:
    """Read where a search stands. Seconds left are those of the search, not of the measuring."""
    job = search.job
    # A page that polls must not read every candidate of every generation.
    made = search.generations.filter(round="")  # others only measure
    rows = made.annotate(best_weights=F("record__best_weights")).defer("record")
    generations = list(rows)
    budget = int(search.spec["search"]["budget"])
    last = generations[-1] if generations else None
    done = last.evaluations if last else 0
    rate = _rate(generations)
    searching = job.state == "running" and search.stage == "searching"
    left = (budget - done) / rate if searching and rate else None
    place = job.queue_position()
    held_back = bool(place) and queue.is_held_back(job)
    starts_in = None
    if place:
        mine = expect.place_free(job.user) if held_back and job.user else None
        starts_in = mine if held_back else expect.start(job, place)
    return Progress(
        state=job.state,
        queue_position=place,
        starts_in=starts_in,
        held_back=held_back,
        # A worker that starts its first job loads torch before it can say anything.
        stage=(search.stage or "preparing") if job.state == "running" else "",
        stage_detail=search.stage_detail if job.state == "running" else "",
        generation=last.number if last else 0,
        evaluations=done,
        budget=budget,
        best_loss=_known(last),
        first_loss=_known(generations[0]) if generations else None,
        evaluations_per_second=rate,
        seconds_left=max(0.0, left) if left is not None else None,
        curve=[
            LossPoint(g.number, g.evaluations, loss)
            for g in generations
            if (loss := _known(g)) is not None
        ],
        weights=current_weights(search, last),
    )


def current_weights(search: Search, last: Generation | None) -> list[ModuleWeight]:
    """The best weights so far with the modules' names, largest first; means over blocks."""
    if last is None:
        return []
    names = [ingredient["repo"] for ingredient in search.spec["ingredients"]]
    weights = module_weights(search.spec, [float.fromhex(each) for each in last.best_weights])
    found = [ModuleWeight(*pair) for pair in zip(names, weights, strict=True)]
    return sorted(found, key=lambda each: -abs(each.weight))


def _known(generation: Generation | None) -> float | None:
    """The best loss so far; None while every candidate's was infinite, which JSON cannot say."""
    if generation is None or not math.isfinite(generation.best_loss):
        return None
    return generation.best_loss


def _rate(generations: Iterable[Generation]) -> float | None:
    """Evaluations a second over the generations run; time between runs does not count."""
    generations = list(generations)
    seconds = sum(generation.seconds for generation in generations)
    return generations[-1].evaluations / seconds if generations and seconds > 0 else None

"""What a composition is to be held against, chosen on the few-shot examples alone.

A test that chose its own rival would flatter one side. So each simpler way is fitted on all but a
part of the examples and measured on that part, in turn; the way with most exact answers, and of
equals the lowest loss, is the rival of the one comparison that decides, before any test example is
seen. Everything that is tuned (which module, at which scale, a LoRA's weights) is tuned again
without each part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from composer.engine.chunk import OutOfMemory
from composer.engine.contenders import SCALES, grid_of_scales
from composer.engine.examples import Example
from composer.engine.fresh_lora import FORWARDS_PER_STEP, FreshRecipe, fresh_lora
from composer.engine.in_context import k_shot
from composer.engine.objective import Hits, Objective
from composer.engine.prompt import Template
from composer.engine.selection import split
from composer.engine.stack import Stack

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
PARTS = 3
WAYS = ("zero_shot", "in_context", "best_single", "uniform", "uniform_scaled", "fresh_lora")


@dataclass(frozen=True)
class OutOfFold:
    """One way on B examples, each by what was fitted without it. exact is None where answers are
    chosen among options: the loss decides there."""

    losses: Array
    exact: Hits | None

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def hits(self) -> int:
        return 0 if self.exact is None else int(self.exact.sum())


@dataclass(frozen=True)
class Choice:
    """key: the way chosen. cost: forward-equivalents of choosing it."""

    key: str
    ways: dict[str, OutOfFold]
    cost: int


@dataclass(frozen=True)
class Asking:
    """What is asked: examples of one base model, searched by these settings over this stack."""

    objective: Objective
    examples: Sequence[Example]
    template: Template
    options: Sequence[str] = ()

    def of(self, stack: Stack, examples: Sequence[Example], template: Template) -> Objective:
        """Losses as all ways are compared by: cross-entropies, or among the options."""
        mine = self.objective
        kind = "options" if self.options else "paper"
        config = replace(
            mine.config, combination="sum", blocks="all", objective=kind, rank=None
        )  # fmt: skip
        return Objective.of(
            mine.base, stack, examples, template, config, options=self.options, chunk=None
        )


def choose(
    asking: Asking,
    *,
    seed: int,
    parts: int = PARTS,
    ways: Sequence[str] = WAYS,
    recipe: FreshRecipe | None = None,
    after_step: Callable[[], None] | None = None,
) -> Choice:
    """The rival for a composition of these examples; at least two are needed.

    after_step is called between forwards and training steps; what it raises ends it.
    """
    folds = list(_folds(len(asking.examples), parts, seed))
    tell = after_step or (lambda: None)
    found: dict[str, OutOfFold] = {}
    cost = 0
    if set(ways) & {"zero_shot", "best_single", "uniform", "uniform_scaled"}:
        table, spent = _of_the_library(asking, folds, tell)
        found |= {key: each for key, each in table.items() if key in ways}
        cost += spent
    if "in_context" in ways:
        found["in_context"] = _joined(folds, [_shown(asking, *fold, tell) for fold in folds])
        cost += 1
    if "fresh_lora" in ways:
        recipe = recipe or FreshRecipe()
        trained = [_trained(asking, *fold, seed, recipe, tell) for fold in folds]
        found["fresh_lora"] = _joined(folds, trained)
        cost += FORWARDS_PER_STEP * recipe.steps * len(folds)
    ordered = {key: found[key] for key in ways}
    best = max(ordered, key=lambda key: (ordered[key].hits, -ordered[key].loss))
    return Choice(best, ordered, cost)


def _folds(examples: int, parts: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """(fitted on, measured on), row numbers."""
    cut = split(examples, parts, seed)
    for place, kept in enumerate(cut):
        others = [part for number, part in enumerate(cut) if number != place]
        yield np.sort(np.concatenate(others)), np.sort(kept)


def _of_the_library(
    asking: Asking, folds: Sequence[tuple[Rows, Rows]], tell: Callable[[], None]
) -> tuple[dict[str, OutOfFold], int]:
    """Base model, single modules and averages: each candidate is measured once on all examples, and
    only the choice among them is made anew without each part."""
    stack = asking.objective.stack
    objective = asking.of(stack, asking.examples, asking.template)
    N = len(stack)
    means = np.outer(grid_of_scales(1 / 4, float(max(N, 1)), SCALES), np.full(N, 1.0 / N))
    losses, exact = _measured(objective, np.concatenate([np.zeros((1, N)), np.eye(N), means]))
    tell()
    singles, averages = np.arange(1, 1 + N), np.arange(1 + N, len(losses))
    plain = int(averages[np.abs(means.sum(axis=1) - 1).argmin()])
    scaled: dict[int, tuple[Array, Hits | None]] = {}
    rows: dict[str, list[tuple[Array, Hits | None]]] = {
        key: [] for key in ("zero_shot", "best_single", "uniform", "uniform_scaled")
    }
    for fitted, kept in folds:
        best = int(singles[losses[np.ix_(singles, fitted)].mean(axis=1).argmin()])
        if best not in scaled:
            grid = np.outer(grid_of_scales(1 / 8, 2.0, SCALES), np.eye(N)[best - 1])
            scaled[best] = _measured(objective, grid)
            tell()
        rows["zero_shot"].append(_at(losses, exact, 0, kept))
        rows["uniform"].append(_at(losses, exact, plain, kept))
        mean = int(averages[losses[np.ix_(averages, fitted)].mean(axis=1).argmin()])
        rows["uniform_scaled"].append(_at(losses, exact, mean, kept))
        its, hits = scaled[best]
        rows["best_single"].append(_at(its, hits, int(its[:, fitted].mean(axis=1).argmin()), kept))
    cost = len(losses) + sum(len(its) for its, _ in scaled.values())
    return {key: _joined(folds, each) for key, each in rows.items()}, cost


def _shown(
    asking: Asking, fitted: Rows, kept: Rows, tell: Callable[[], None]
) -> tuple[Array, Hits | None]:
    """The part's examples answered with the others in the prompt."""
    tell()
    some = [asking.examples[row] for row in kept]
    shots = [asking.examples[row] for row in fitted]
    base, stack = asking.objective.base, asking.objective.stack
    asked = k_shot(base, shots, [each.input for each in some], asking.template)
    prompts = [Example(text, each.target) for text, each in zip(asked.prompts, some, strict=True)]
    losses, exact = _measured(asking.of(stack, prompts, asked.template), np.zeros((1, len(stack))))
    return losses[0], None if exact is None else exact[0]


def _trained(
    asking: Asking,
    fitted: Rows,
    kept: Rows,
    seed: int,
    recipe: FreshRecipe,
    tell: Callable[[], None],
) -> tuple[Array, Hits | None]:
    mine = asking.objective
    made = fresh_lora(
        mine.base,
        [asking.examples[row] for row in fitted],
        asking.template,
        seed=seed,
        layers=sorted(mine.stack.A),
        recipe=recipe,
        after_step=tell,
    )
    some = [asking.examples[row] for row in kept]
    losses, exact = _measured(asking.of(made.stack, some, asking.template), np.ones((1, 1)))
    return losses[0], None if exact is None else exact[0]


def _measured(objective: Objective, weights: Array) -> tuple[Array, Hits | None]:
    """(P, N) -> losses (P, B), infinite where they are no number, and exact answers."""
    while True:
        try:
            if objective.config.objective == "options":
                losses, exact = objective.example_losses(weights), None
            else:
                losses, exact = objective.example_answers(weights)
            return np.where(np.isfinite(losses), losses, np.inf), exact
        except OutOfMemory as error:
            if error.smaller is None:
                raise
            objective = objective.with_chunk(error.smaller)


def _at(losses: Array, exact: Hits | None, candidate: int, rows: Rows) -> tuple[Array, Hits | None]:
    return losses[candidate, rows], None if exact is None else exact[candidate, rows]


def _joined(
    folds: Sequence[tuple[Rows, Rows]], found: Sequence[tuple[Array, Hits | None]]
) -> OutOfFold:
    """The parts put together again, in the order of the examples."""
    order = np.argsort(np.concatenate([kept for _, kept in folds]))
    losses = np.concatenate([each for each, _ in found])[order]
    hits = [each for _, each in found if each is not None]
    return OutOfFold(losses, np.concatenate(hits)[order] if hits else None)

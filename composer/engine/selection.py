"""What the best candidate is chosen on: the examples it was searched with, or others.

Five examples overfit: a lower loss on them can mean a worse adapter. A forward gives the loss of a
candidate on every example, so what is kept back costs nothing but what the search does not see.

examples    The search sees all; the best is the candidate of lowest loss.
validation  A seeded permutation cuts the examples into `folds` parts. The search is told the loss
            on all but the first; the best is the candidate of lowest loss on the first.
folds       k = `folds` searches take turns, a generation each; search f is told the loss on all
            but part f, and its pick is its own candidate (or one of generation 0) of lowest loss on
            part f. After each round the mean of the k picks is evaluated on all examples, as one
            candidate more, and the answer is the best of these means, zero and the single modules,
            by the loss on all examples. No candidate of a search is chosen by what it was fitted
            to, and the mean of k weights is, for `sum`, the mean of k adapters. All k searches
            share one budget, so each has a kth of it.

All losses carry the same penalty. Permutations are drawn apart from what the optimisers draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from composer.engine.config import SearchConfig
from composer.engine.errors import BadConfig
from composer.engine.generation import Array, Generation
from composer.engine.optimisers import AT_ONCE

Rows = NDArray[np.int64]
Function = Callable[[Array], Array]


@runtime_checkable
class ExampleObjective(Protocol):
    """An objective that knows its losses by example, P candidates on B examples. The task loss
    is linear in them."""

    @property
    def examples(self) -> int:
        """B"""
        ...

    def example_losses(self, weights: Array) -> Array:
        """(P, n) -> (P, B)"""
        ...

    def reduce(self, example_losses: Array, rows: Rows | None = None) -> Array:
        """(P, B) -> (P,): the task loss over all examples, or over these alone."""
        ...

    def penalty(self, weights: Array) -> Array:
        """(P, n) -> (P,)"""
        ...


@runtime_checkable
class DifferentiableObjective(ExampleObjective, Protocol):
    def loss_and_gradient(self, weights: Array, rows: Rows | None = None) -> tuple[Array, Array]:
        """(1, n) -> example losses (1, B), and the gradient (1, n) of reduce(·, rows) + penalty."""
        ...


@dataclass(frozen=True)
class Measured:
    """P candidates: told (P,), selection (P, S) or None, gradients (P, n) or None."""

    told: Array
    selection: Array | None = None
    gradients: Array | None = None

    @classmethod
    def stored(cls, generation: Generation, rows: slice) -> Measured:
        selection, gradients = generation.selection_losses, generation.gradients
        return cls(
            generation.losses[rows],
            None if selection is None else selection[rows],
            None if gradients is None else gradients[rows],
        )


def split(examples: int, folds: int, seed: int) -> list[Rows]:
    """Row numbers of `folds` parts (fewer where there are fewer examples), sizes equal to one."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, examples])))
    return np.array_split(generator.permutation(examples), min(folds, examples))


class Selection:
    """`examples`: all are searched with, all are chosen on."""

    searches = 1

    def __init__(self, objective: Function) -> None:
        self.objective = objective
        self.best_weights: Array | None = None
        self.best_loss = np.inf
        self.parts: list[Rows] = []

    def blind_rows(self, search: int | None) -> Rows | None:
        """What this search is told the loss on; None is all examples."""
        return None

    def measure(self, weights: Array, search: int | None, gradients: bool) -> Measured:
        """Evaluate candidates of one search; of all of them where search is None."""
        rows = self.blind_rows(search)
        objective = self.objective
        if not gradients and not self.parts:
            return Measured(_finite(np.asarray(objective(weights), dtype=np.float64), weights))
        found = None
        if gradients:
            assert isinstance(objective, DifferentiableObjective)
            losses, found = objective.loss_and_gradient(weights, rows)
            if found.shape != weights.shape:
                raise ValueError(f"the objective gave {found.shape} slopes for {weights.shape}")
            found = np.where(np.isfinite(found).all(), found, 0.0)  # no direction is better
        else:
            assert isinstance(objective, ExampleObjective)
            losses = objective.example_losses(weights)
        penalty = objective.penalty(weights)
        told = _finite(objective.reduce(losses, rows) + penalty, weights)
        if not self.parts:
            return Measured(told, None, found)
        kept = [_finite(objective.reduce(losses, part) + penalty, weights) for part in self.parts]
        return Measured(told, np.stack(kept, axis=1), found)

    def consider(self, weights: Array, measured: Measured, search: int | None) -> bool:
        """Keep the best; whether something became better."""
        return self._keep(weights, measured.told)

    def answer_to_try(self) -> Array | None:
        """A candidate (1, n) made of what was found, to be evaluated on all examples."""
        return None

    def _keep(self, weights: Array, losses: Array) -> bool:
        first = int(np.argmin(losses))
        if losses[first] < self.best_loss or self.best_weights is None:
            self.best_loss, self.best_weights = float(losses[first]), weights[first].copy()
            return True
        return False


class Validation(Selection):
    """`validation`: the first part is kept back."""

    def __init__(self, objective: ExampleObjective, parts: list[Rows]) -> None:
        super().__init__(objective)  # type: ignore[arg-type]
        self.parts = parts[:1]
        self._others = np.sort(np.concatenate(parts[1:]))

    def blind_rows(self, search: int | None) -> Rows | None:
        return self._others

    def consider(self, weights: Array, measured: Measured, search: int | None) -> bool:
        assert measured.selection is not None
        return self._keep(weights, measured.selection[:, 0])


class Folds(Selection):
    """`folds`: a search for each part, blind to it; their picks' mean is the candidate."""

    def __init__(
        self, objective: ExampleObjective, parts: list[Rows], align: Callable[[Array], Array]
    ) -> None:
        super().__init__(objective)  # type: ignore[arg-type]
        self.parts = parts
        self.searches = len(parts)
        self._align = align
        self._picks: list[Array] = []
        self._pick_losses = [np.inf] * len(parts)

    def blind_rows(self, search: int | None) -> Rows | None:
        if search is None:
            return None
        others = [part for number, part in enumerate(self.parts) if number != search]
        return np.sort(np.concatenate(others))

    def consider(self, weights: Array, measured: Measured, search: int | None) -> bool:
        assert measured.selection is not None
        if search is not None:
            return self._pick(search, weights, measured.selection[:, search])
        better = self._keep(weights, measured.told)
        if not self._picks:  # generation 0 is everybody's
            self._picks = [weights[0].copy() for _ in self.parts]
            for each in range(self.searches):
                self._pick(each, weights, measured.selection[:, each])
        return better

    def answer_to_try(self) -> Array | None:
        picks: Array = self._align(np.stack(self._picks))
        return np.asarray(picks.mean(axis=0, keepdims=True))

    def _pick(self, search: int, weights: Array, losses: Array) -> bool:
        first = int(np.argmin(losses))
        if not losses[first] < self._pick_losses[search]:
            return False
        self._pick_losses[search] = float(losses[first])
        self._picks[search] = weights[first].copy()
        return True


def make(objective: Function, config: SearchConfig, align: Callable[[Array], Array]) -> Selection:
    """The config's selection. `align` gives candidates that mean the same one sign."""
    if config.optimiser == "lbfgs" and not isinstance(objective, DifferentiableObjective):
        raise BadConfig("The optimiser 'lbfgs' needs an objective with gradients. Choose another.")
    if config.selection == "examples":
        return Selection(objective)
    if not isinstance(objective, ExampleObjective):
        raise BadConfig(f"The selection {config.selection!r} needs an objective by example.")
    if objective.examples < 2:
        raise BadConfig(
            f"The selection {config.selection!r} keeps examples back and needs at least two; there "
            f"is {objective.examples}. Add examples, or choose the selection 'examples'."
        )
    parts = split(objective.examples, config.folds, config.seed)
    if config.selection == "validation":
        return Validation(objective, parts)
    return Folds(objective, parts, align)


def check_budget(config: SearchConfig, n: int, modules: int, examples: int) -> None:
    """Raise BadConfig for `folds` whose searches would end before Cobyla's first step.

    It tries each of the n weights once before that, and k searches share the budget.
    """
    if config.selection != "folds" or config.optimiser != "cobyla":
        return
    searches = min(config.folds, examples)
    group = config.population or AT_ONCE
    rounds = -(-(n + 2) // group)  # of a turn for each search and a mean
    needed = 1 + (modules if config.singles else 0) + rounds * (searches * group + 1)
    if config.budget < needed:
        raise BadConfig(
            f"With the selection 'folds', {searches} searches share {config.budget} evaluations, "
            f"and Cobyla tries each of {n} weights once before its first step: give the budget at "
            f"least {needed}, take fewer modules, or choose the selection 'examples'.",
            fields={"budget": [f"Give it at least {needed}."]},
        )


def _finite(losses: Array, weights: Array) -> Array:
    if losses.shape != (len(weights),):
        raise ValueError(f"the objective gave {losses.shape} losses for {len(weights)}")
    return np.where(np.isfinite(losses), losses, np.inf)

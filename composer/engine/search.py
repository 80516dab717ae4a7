"""A search over the modules' weights, one generation at a time, resumable to the bit.

Every optimiser goes through one interface (`composer.engine.optimisers`) and draws from a generator
of its own, so a search depends on its seed and losses alone, and a search that was interrupted is
rebuilt by asking and telling again what its stored generations say.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.engine import optimisers, selection
from composer.engine.config import SearchConfig
from composer.engine.errors import BadConfig, ResumeMismatch
from composer.engine.generation import Generation
from composer.engine.optimisers import Optimiser
from composer.engine.recipe import canonical_sign
from composer.engine.selection import Measured

Array = NDArray[np.float64]
Measure = Callable[[Array, int | None], Measured]
__all__ = ["Generation", "ResumeMismatch", "search"]

# What an optimiser that goes by ranks is told for a loss that is not finite: worse than any real.
WORST = 1e30


def search(
    objective: Callable[[Array], Array],
    n: int,
    config: SearchConfig,
    *,
    modules: int | None = None,
    resume: Sequence[dict[str, Any]] = (),
) -> Iterator[Generation]:
    """Yield generations until one says in `ended` that it was the last.

    objective  weights (P, n) -> losses (P,); for gradients, and where examples are kept back, one
               that knows its losses by example (`selection.ExampleObjective`)
    n          weights a candidate: N modules, or N·K where each has one for each of K blocks,
               column k·N + i for module i in block k
    modules    N, where n is more
    resume     to_json() of the generations already done; they are replayed, not evaluated, and
               not yielded again. ResumeMismatch when they are not this search's own.

    `budget` counts forward-equivalents: a candidate is 1, or 3 with its gradient. It is never
    overstepped; it is spent to the last one, unless the search has converged, its patience has
    ended, or what is left is too little for another candidate.
    """
    config.validate()
    modules = n if modules is None else modules
    if modules < 1 or n < 1 or n % modules:
        raise BadConfig("A search needs at least one module, and as many weights for each.")
    state = _Search(objective, n, modules, config)
    try:
        for row in resume:
            state.replay(row)
        while not state.ended:
            yield state.step(state.measure)
    finally:
        state.close()


class _Search:
    """Everything a search knows: its optimisers, one for each search of the selection."""

    def __init__(
        self, objective: Callable[[Array], Array], n: int, modules: int, config: SearchConfig
    ) -> None:
        self.n, self.modules, self.config = n, modules, config
        self.selection = selection.make(objective, config, self._one_sign)
        selection.check_budget(config, n, modules, self.selection.searches)
        self.number = self.evaluations = 0
        self.improved_at = 0
        self.restarts = [0] * self.selection.searches
        self.ended = ""
        self.last_digest = ""
        self.seconds = 0.0
        self._worst_told = -np.inf
        self._turn = 0
        self._untried = False  # picks have come since their mean was last evaluated
        self.generators = [
            np.random.Generator(np.random.PCG64([config.seed, each] if each else config.seed))
            for each in range(self.selection.searches)
        ]
        self.optimisers: list[Optimiser] = []
        try:
            for generator in self.generators:
                self.optimisers.append(optimisers.make(n, config, generator))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for optimiser in self.optimisers:
            optimiser.close()

    # --- a generation ------------------------------------------------------------------------

    def step(self, measure: Measure) -> Generation:
        self.seconds = 0.0
        if self.number == 0:
            weights, measured, which = self._begin(measure)
        elif self._is_due_to_try():
            weights, measured, which = self._try_answer(measure)
        else:
            weights, measured, which = self._go_on(measure)
        before = self.selection.best_weights
        if self.selection.consider(weights, measured, which):
            self.improved_at = self.number
        if self.selection.best_weights is not before:
            self.best_weights = self._canonical(self.selection.best_weights)
        return self._record(weights, measured, which)

    def measure(self, weights: Array, which: int | None) -> Measured:
        start = time.perf_counter()
        gradients = which is not None and self.optimisers[which].uses_gradients
        found = self.selection.measure(weights, which, gradients)
        self.seconds += time.perf_counter() - start
        return found

    def _begin(self, measure: Measure) -> tuple[Array, Measured, int | None]:
        """Generation 0: zero, then each module alone, at weight 1 in all its blocks."""
        blocks = self.n // self.modules
        singles = np.tile(np.eye(self.modules), blocks if self.config.singles else 0)
        weights = np.zeros((1, self.n))
        if self.config.singles:
            weights = np.concatenate([weights, singles])
        weights = weights[: self.config.budget]
        self.evaluations += len(weights)
        return weights, measure(weights, None), None

    def _try_answer(self, measure: Measure) -> tuple[Array, Measured, int | None]:
        weights = self.selection.answer_to_try()
        assert weights is not None
        self._untried, self._turn = False, 0
        self.evaluations += 1
        return weights, measure(weights, None), None

    def _go_on(self, measure: Measure) -> tuple[Array, Measured, int | None]:
        """One generation of the search whose turn it is."""
        which = self._next_alive()
        optimiser = self._awake(which)
        asked: list[Array] = []
        found: list[Measured] = []
        while len(asked) < optimiser.group and self._room(optimiser):
            population = optimiser.ask()
            some = population[: self._room(optimiser)]
            measured = measure(some, which)
            self.evaluations += optimiser.cost * len(some)
            if len(some) == len(population):
                optimiser.tell(some, self._told(measured.told), measured.gradients)
            asked.append(some)
            found.append(measured)
            if optimiser.converged:
                break
        if self.selection.searches > 1:
            self._turn, self._untried = which + 1, True
        return np.concatenate(asked), _joined(found), which

    def _record(self, weights: Array, measured: Measured, which: int | None) -> Generation:
        tried = self.number > 0 and which is None
        self.ended = self._why_ended()
        self.last_digest = self._digest(weights, measured, which or 0)
        generation = Generation(
            number=self.number,
            weights=weights,
            losses=measured.told,
            best_weights=self.best_weights.copy(),
            best_loss=self.selection.best_loss,
            evaluations=self.evaluations,
            budget=self.config.budget,
            seconds=self.seconds,
            digest=self.last_digest,
            labels=("mean of the folds",) if tried else self._labels(len(weights)),
            selection_losses=measured.selection,
            gradients=measured.gradients,
            restarts=sum(self.restarts),
            ended=self.ended,
        )
        self.number += 1
        return generation

    # --- whose turn, and when it is over -----------------------------------------------------

    def _room(self, optimiser: Optimiser) -> int:
        """Candidates that may still be evaluated; one is kept for the mean of the folds."""
        kept = 1 if self.selection.searches > 1 else 0
        return max(0, self.config.budget - self.evaluations - kept) // optimiser.cost

    def _alive(self, which: int) -> bool:
        optimiser = self.optimisers[which]
        may_go_on = not optimiser.converged or self.restarts[which] < self.config.restarts
        return may_go_on and self._room(optimiser) > 0

    def _next_alive(self) -> int:
        return next(each for each in range(self._turn, len(self.optimisers)) if self._alive(each))

    def _awake(self, which: int) -> Optimiser:
        """The optimiser; a converged one begins anew, from a drawn start."""
        if self.optimisers[which].converged:
            self.restarts[which] += 1
            self.optimisers[which] = optimisers.make(
                self.n, self.config, self.generators[which], self.restarts[which]
            )
        return self.optimisers[which]

    def _is_due_to_try(self) -> bool:
        """The round is over, or the search will be."""
        is_last = not any(self._alive(each) for each in range(self._turn, len(self.optimisers)))
        return self._untried and (is_last or self._is_out_of_patience())

    def _is_out_of_patience(self) -> bool:
        patience = self.config.patience
        return bool(patience) and self.number - self.improved_at >= patience

    def _why_ended(self) -> str:
        """Asked with the number of the generation that was just done."""
        if self.evaluations >= self.config.budget:
            return "budget"
        if self._untried:
            return ""
        if not any(self._alive(each) for each in range(len(self.optimisers))):
            has_room = any(self._room(optimiser) for optimiser in self.optimisers)
            return "converged" if has_room else "budget"
        return "patience" if self._is_out_of_patience() else ""

    # --- replay ------------------------------------------------------------------------------

    def replay(self, row: dict[str, Any]) -> None:
        """Do again what a stored generation did, and compare everything but its time."""
        try:
            stored = Generation.from_json(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResumeMismatch(
                f"Stored generation {self.number} cannot be read. Start the search again."
            ) from error
        if self.ended or len(stored.losses) != len(stored.weights):
            raise _mismatch(self.number)
        done = 0

        def remembered(weights: Array, which: int | None) -> Measured:
            nonlocal done
            rows = slice(done, done + len(weights))
            done += len(weights)
            found = Measured.stored(stored, rows)
            if not np.array_equal(stored.weights[rows], weights) or not self._fits(found, which):
                raise _mismatch(self.number)
            return found

        # Older rows say less.
        said = {**self.step(remembered).to_json(), "seconds": stored.seconds}
        if {key: said.get(key) for key in row} != row:
            raise _mismatch(stored.number)

    def _fits(self, found: Measured, which: int | None) -> bool:
        """Whether all is there that this search measures, and nothing else."""
        P, parts = len(found.told), len(self.selection.parts)
        sloped = which is not None and self.optimisers[which].uses_gradients
        selected = None if found.selection is None else found.selection.shape
        slopes = None if found.gradients is None else found.gradients.shape
        return selected == ((P, parts) if parts else None) and slopes == (
            (P, self.n) if sloped else None
        )

    # --- small things ------------------------------------------------------------------------

    def _told(self, losses: Array) -> Array:
        """Losses (P,) that an optimiser can work with: all finite.

        CMA-ES goes by ranks. The others build models of the loss, which a huge number would
        ruin: they are told a little more than the worst they have seen.
        """
        if self.config.optimiser == "cmaes":
            return np.where(np.isfinite(losses), losses, WORST)
        real = losses[np.isfinite(losses)]
        self._worst_told = max(self._worst_told, float(real.max(initial=-np.inf)))
        worst = self._worst_told if np.isfinite(self._worst_told) else 0.0
        return np.where(np.isfinite(losses), losses, worst + 1 + abs(worst))

    def _canonical(self, weights: Array | None) -> Array:
        assert weights is not None
        if self.config.combination != "lorahub":
            return weights + 0.0
        return np.array(canonical_sign(weights.tolist(), self.n // self.modules))

    def _one_sign(self, picks: Array) -> Array:
        """(k, n): w and -w are one adapter for `lorahub`; each block is given the sign that is
        nearer to the first's."""
        if self.config.combination != "lorahub":
            return picks
        blocks = picks.reshape(len(picks), -1, self.modules)
        nearer = np.where((blocks * blocks[:1]).sum(axis=2, keepdims=True) < 0, -1.0, 1.0)
        return (blocks * nearer).reshape(picks.shape)

    def _labels(self, count: int) -> tuple[str, ...]:
        if self.number > 0:
            return ()
        return ("zero", *(f"single:{i}" for i in range(self.modules)))[:count]

    def _digest(self, weights: Array, measured: Measured, which: int) -> str:
        """sha256 over the optimiser, its generator, and what it was just told.

        Where the state cannot be read in full, as in scipy's loops, the digest before goes in too.
        """
        optimiser = self.optimisers[which]
        sha = hashlib.sha256()
        told = [weights, measured.told, self.best_weights]
        more = [each for each in (measured.selection, measured.gradients) if each is not None]
        for array in (*told, *optimiser.arrays(), *more):
            sha.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        counts = [self.number, self.evaluations, *optimiser.facts()]
        facts: list[Any] = [counts, self.generators[which].bit_generator.state]
        if self.config.optimiser != "cmaes" or self.config.selection != "examples":
            facts.append([self.last_digest, which, self.restarts])
        sha.update(json.dumps(facts, sort_keys=True).encode())
        return sha.hexdigest()


def _joined(found: Sequence[Measured]) -> Measured:
    told = np.concatenate([each.told for each in found])
    selected = [each.selection for each in found if each.selection is not None]
    gradients = [each.gradients for each in found if each.gradients is not None]
    return Measured(
        told,
        np.concatenate(selected) if selected else None,
        np.concatenate(gradients) if gradients else None,
    )


def _mismatch(number: int) -> ResumeMismatch:
    return ResumeMismatch(
        f"Stored generation {number} is not what this search would have done with its settings. "
        "Start the search again from the beginning."
    )

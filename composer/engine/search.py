"""CMA-ES over the modules' weights, one generation at a time, resumable to the bit.

CMA-ES: Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772), as pycma has it. It
draws from a generator of its own, so a search depends on its seed and losses alone, and a search
that was interrupted is rebuilt by asking and telling again what its stored generations say.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.engine.config import SearchConfig
from composer.engine.errors import BadConfig, ResumeMismatch
from composer.engine.recipe import canonical_sign

with warnings.catch_warnings():  # pycma says at import that it cannot draw plots
    warnings.simplefilter("ignore")
    import cma
    from cma.boundary_handler import BoundTransform

Array = NDArray[np.float64]
__all__ = ["Generation", "ResumeMismatch", "search"]

# What the optimiser is told for a loss that is not finite: worse than anything real.
WORST = 1e30
# Candidates nearer to each other than this are one: told on, the step size would end in NaN.
CONVERGED = 1e-9


@dataclass(frozen=True)
class Generation:
    """P candidates and their losses; the best so far, over all generations.

    weights (P, N), losses (P,) with inf where a loss was not finite, best_weights (N,) in
    canonical sign for `lorahub`. evaluations counts all so far; seconds is this generation's.
    """

    number: int
    weights: Array
    losses: Array
    best_weights: Array
    best_loss: float
    evaluations: int
    budget: int
    seconds: float
    digest: str
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Floats as hexadecimal text: every bit survives."""
        return {
            "number": self.number,
            "weights": [_hex(row) for row in self.weights],
            "losses": _hex(self.losses),
            "best_weights": _hex(self.best_weights),
            "best_loss": float(self.best_loss).hex(),
            "evaluations": self.evaluations,
            "budget": self.budget,
            "seconds": self.seconds,
            "digest": self.digest,
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Generation:
        return cls(
            number=int(row["number"]),
            weights=np.array([_floats(candidate) for candidate in row["weights"]]),
            losses=_floats(row["losses"]),
            best_weights=_floats(row["best_weights"]),
            best_loss=float.fromhex(row["best_loss"]),
            evaluations=int(row["evaluations"]),
            budget=int(row["budget"]),
            seconds=float(row["seconds"]),
            digest=str(row["digest"]),
            labels=tuple(row["labels"]),
        )


def search(
    objective: Callable[[Array], Array],
    n: int,
    config: SearchConfig,
    *,
    resume: Sequence[dict[str, Any]] = (),
) -> Iterator[Generation]:
    """Yield generations until the budget of evaluations is spent, to the last one.

    objective  weights (P, n) -> losses (P,)
    resume     to_json() of the generations already done; they are replayed, not evaluated, and
               not yielded again. ResumeMismatch when they are not this search's own.
    """
    config.validate()
    if n < 1:
        raise BadConfig("A search needs at least one module.")
    state = _State(n, config)
    for row in resume:
        state.replay(row)
    while state.evaluations < config.budget:
        weights = state.ask()
        start = time.perf_counter()
        losses = np.asarray(objective(weights), dtype=np.float64)
        if losses.shape != (len(weights),):
            raise ValueError(f"the objective gave {losses.shape} losses for {len(weights)}")
        yield state.tell(weights, losses, time.perf_counter() - start)


class _State:
    """Everything a search knows. ask() then tell(), again and again."""

    def __init__(self, n: int, config: SearchConfig) -> None:
        self.n = n
        self.config = config
        self.number = 0
        self.evaluations = 0
        self.best_weights: Array = np.zeros(n)
        self.best_loss = np.inf
        self.generator = np.random.Generator(np.random.PCG64(config.seed))
        self.optimiser = _cmaes(max(n, 2), config, self._randn)
        self._asked: list[Array] = []

    def ask(self) -> Array:
        """The next candidates (P, n). Generation 0: zero, then each module alone at weight 1.

        Near the end of the budget only the first candidates of a population are evaluated.
        """
        left = self.config.budget - self.evaluations
        if self.number == 0:
            singles = np.eye(self.n) if self.config.singles else np.zeros((0, self.n))
            return np.concatenate([np.zeros((1, self.n)), singles])[:left]
        self._asked = self.optimiser.ask()
        return np.array(self._asked)[:left, : self.n].copy()

    def tell(self, weights: Array, losses: Array, seconds: float) -> Generation:
        losses = np.where(np.isfinite(losses), losses, np.inf)
        converged = float(np.ptp(weights, axis=0).max()) < CONVERGED
        if self.number > 0 and len(losses) == len(self._asked) and not converged:
            told = np.where(np.isfinite(losses), losses, WORST)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.optimiser.tell(self._asked, told.tolist())
        first = int(np.argmin(losses))
        if losses[first] < self.best_loss or self.evaluations == 0:
            self.best_loss = float(losses[first])
            self.best_weights = self._canonical(weights[first])
        labels = self._labels(len(weights))
        self.evaluations += len(weights)
        generation = Generation(
            number=self.number,
            weights=weights,
            losses=losses,
            best_weights=self.best_weights.copy(),
            best_loss=self.best_loss,
            evaluations=self.evaluations,
            budget=self.config.budget,
            seconds=seconds,
            digest=self._digest(weights, losses),
            labels=labels,
        )
        self.number += 1
        return generation

    def replay(self, row: dict[str, Any]) -> None:
        """Do again what a stored generation did, and compare everything but its time."""
        try:
            stored = Generation.from_json(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ResumeMismatch(
                f"Stored generation {self.number} cannot be read. Start the search again."
            ) from error
        weights = self.ask()
        if stored.losses.shape != (len(weights),) or not len(weights):
            raise _mismatch(self.number)
        again = self.tell(weights, stored.losses, stored.seconds)
        if again.to_json() != stored.to_json():
            raise _mismatch(stored.number)

    def _randn(self, *shape: int) -> Array:
        return self.generator.standard_normal(shape)

    def _canonical(self, weights: Array) -> Array:
        if self.config.combination == "lorahub":
            return np.array(canonical_sign(weights.tolist()))
        return weights + 0.0

    def _labels(self, count: int) -> tuple[str, ...]:
        if self.number > 0:
            return ()
        return ("zero", *(f"single:{i}" for i in range(self.n)))[:count]

    def _digest(self, weights: Array, losses: Array) -> str:
        """sha256 over the optimiser, its generator, and what it was just told."""
        es = self.optimiser
        sha = hashlib.sha256()
        for array in (
            weights,
            losses,
            self.best_weights,
            es.mean,
            es.pc,
            es.sm.C,
            es.sm.B,
            es.sm.D,
        ):
            sha.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        path = getattr(es.adapt_sigma, "ps", None)
        sha.update(np.asarray([] if path is None else path, dtype=np.float64).tobytes())
        counts = [self.number, self.evaluations, int(es.countiter), float(es.sigma).hex()]
        generator = self.generator.bit_generator.state
        sha.update(json.dumps([counts, generator], sort_keys=True).encode())
        return sha.hexdigest()


def _cmaes(n: int, config: SearchConfig, randn: Callable[..., Array]) -> Any:
    """An optimiser over n >= 2 weights (for one module, a second weight that nothing reads)."""
    options: dict[str, Any] = {
        "seed": float("nan"),  # touch no global generator
        "randn": randn,
        "verbose": -9,
        "verb_log": 0,
    }
    if config.population is not None:
        options["popsize"] = config.population
    if config.bound is not None:
        options["bounds"] = [-config.bound, config.bound]
        options["BoundaryHandler"] = BoundTransform
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cma.CMAEvolutionStrategy([config.x0] * n, config.sigma, options)


def _mismatch(number: int) -> ResumeMismatch:
    return ResumeMismatch(
        f"Stored generation {number} is not what this search would have done with its settings. "
        "Start the search again from the beginning."
    )


def _hex(values: Array) -> list[str]:
    return [float(value).hex() for value in values]


def _floats(values: Sequence[str]) -> Array:
    return np.array([float.fromhex(value) for value in values])

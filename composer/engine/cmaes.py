"""CMA-ES, as pycma has it: Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv 1604.00772)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.engine.config import SearchConfig
from composer.engine.optimisers import population

with warnings.catch_warnings():  # pycma says at import that it cannot draw plots
    warnings.simplefilter("ignore")
    import cma
    from cma.boundary_handler import BoundTransform

Array = NDArray[np.float64]

# Candidates nearer to each other than this are one: told on, the step size would end in NaN.
CONVERGED = 1e-9
# Steps below this change no weight that anybody could tell apart: converged.
SMALLEST_STEP = 1e-7
# Generations of equal losses that are borne: counted answers (`exact_match`) come in steps.
FLAT = 10


class Cmaes:
    """A population a generation, from a normal distribution that learns from its ranks."""

    cost = 1
    group = 1
    uses_gradients = False

    def __init__(
        self, start: Array, config: SearchConfig, generator: np.random.Generator, restart: int = 0
    ) -> None:
        self.n = len(start)
        self.restart = restart
        self.converged = False
        self._asked: list[Array] = []
        # pycma searches two dimensions or more: one weight gets a second that nothing reads.
        start = np.pad(start, (0, max(0, 2 - self.n)), mode="edge")
        options: dict[str, Any] = {
            "seed": float("nan"),  # touch no global generator
            "randn": lambda *shape: generator.standard_normal(shape),
            "verbose": -9,
            "verb_log": 0,
            "signals_filename": "",  # else it looks for a file of settings where we happen to be
            "tolx": SMALLEST_STEP,
            "tolflatfitness": FLAT,
            "tolfun": 0,  # it would end at the first generation of equal losses
        }
        if config.population is not None or restart:
            options["popsize"] = population(len(start), config, restart)
        if config.bound is not None:
            options["bounds"] = [-config.bound, config.bound]
            options["BoundaryHandler"] = BoundTransform
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.es = cma.CMAEvolutionStrategy(start.tolist(), config.sigma, options)

    def ask(self) -> Array:
        self._asked = self.es.ask()
        return np.array(self._asked)[:, : self.n].copy()

    def tell(self, weights: Array, losses: Array, gradients: Array | None) -> None:
        if float(np.ptp(weights, axis=0).max()) < CONVERGED:
            self.converged = True
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.es.tell(self._asked, losses.tolist())
            self.converged = bool(self.es.stop())

    def arrays(self) -> list[Array]:
        es = self.es
        path = getattr(es.adapt_sigma, "ps", None)
        return [es.mean, es.pc, es.sm.C, es.sm.B, es.sm.D, np.asarray([] if path is None else path)]

    def facts(self) -> list[Any]:
        counts: list[Any] = [int(self.es.countiter), float(self.es.sigma).hex()]
        return [*counts, self.restart] if self.restart else counts

    def close(self) -> None:
        pass

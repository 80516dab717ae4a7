"""What every optimiser of weights offers: ask for candidates, tell their losses, again and again.

An optimiser draws from the generator it is given and from nothing else, so that what it asks
depends on its settings, its generator and what it was told: a search is resumed by telling it
again. Told losses are finite: the search replaces what is not.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from composer.engine.config import SearchConfig

Array = NDArray[np.float64]

# A gradient is charged as three forwards: one forward, about two for the backward.
FORWARDS_PER_GRADIENT = 3
# One of these and the next is known only after the loss of the one before; so many are a record.
AT_ONCE = 10


class Optimiser(Protocol):
    """cost: evaluations that one candidate is charged. group: how many answers to ask() make one
    generation. uses_gradients: whether tell() wants them."""

    cost: int
    group: int
    uses_gradients: bool

    @property
    def converged(self) -> bool:
        """There is nothing more to ask."""
        ...

    def ask(self) -> Array:
        """The next candidates (P, n)."""
        ...

    def tell(self, weights: Array, losses: Array, gradients: Array | None) -> None:
        """What ask() gave (P, n), losses (P,), gradients (P, n). At the end of a budget, where
        only a part of a population was evaluated, it is not told."""
        ...

    def arrays(self) -> list[Array]:
        """Its state, as far as it can be read, for the digest."""
        ...

    def facts(self) -> list[Any]:
        """The rest of its state, as JSON."""
        ...

    def close(self) -> None:
        """Leave nothing running."""
        ...


def make(
    n: int, config: SearchConfig, generator: np.random.Generator, restart: int = 0
) -> Optimiser:
    """The config's optimiser over n weights. A restart begins at a drawn start."""
    start = _start(n, config, generator, restart)
    if config.optimiser == "cmaes":
        from composer.engine.cmaes import Cmaes

        return Cmaes(start, config, generator, restart)
    if config.optimiser == "random":
        return RandomSearch(start, config, generator)
    from composer.engine.scipy_optimisers import Cobyla, Lbfgs

    return Cobyla(start, config) if config.optimiser == "cobyla" else Lbfgs(start, config)


def population(n: int, config: SearchConfig, restart: int = 0) -> int:
    """4 + 3 ln n candidates (Hansen, arXiv 1604.00772, table 1) where the config leaves it open;
    twice as many with every restart."""
    size = config.population or 4 + math.floor(3 * math.log(n))
    return size << restart


def within(weights: Array, config: SearchConfig) -> Array:
    return weights if config.bound is None else np.clip(weights, -config.bound, config.bound)


def _start(n: int, config: SearchConfig, generator: np.random.Generator, restart: int) -> Array:
    """x0 everywhere; L-BFGS with a little noise, N(0, σ/10), because it would go the same way
    with every seed. A restart: x0 + 3σ N(0, 1)."""
    start = np.full(n, float(config.x0))
    if restart:
        return within(start + 3 * config.sigma * generator.standard_normal(n), config)
    if config.optimiser == "lbfgs":
        return within(start + config.sigma / 10 * generator.standard_normal(n), config)
    return start


class RandomSearch:
    """Draws from N(x0, σ² I), clipped to the bound. It learns nothing: the least that any other
    optimiser must beat."""

    cost = 1
    group = 1
    uses_gradients = False
    converged = False

    def __init__(self, start: Array, config: SearchConfig, generator: np.random.Generator) -> None:
        self.start, self.config, self.generator = start, config, generator
        self.size = population(max(len(start), 2), config)

    def ask(self) -> Array:
        noise = self.generator.standard_normal((self.size, len(self.start)))
        return within(self.start + self.config.sigma * noise, self.config)

    def tell(self, weights: Array, losses: Array, gradients: Array | None) -> None:
        pass

    def arrays(self) -> list[Array]:
        return []

    def facts(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass

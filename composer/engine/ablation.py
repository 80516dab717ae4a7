"""What each module does in a mixture: the mixture without it, and with the strongest few alone.

On the examples that were searched with, so it explains a search and judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from composer.engine.examples import Example
from composer.engine.objective import Objective
from composer.engine.prompt import Template

Array = NDArray[np.float64]
STRONGEST = (3, 5)
LOSSES = ("paper", "reference")  # objectives that are cross-entropies themselves


@dataclass(frozen=True)
class Variant:
    """A mixture measured: its mean loss over all answer tokens, and exact answers."""

    loss: float
    exact: int


@dataclass(frozen=True)
class Ablation:
    """without: by the module's number; strongest: by how many are kept, largest |w| first."""

    whole: Variant
    without: dict[int, Variant]
    strongest: dict[int, tuple[tuple[int, ...], Variant]]
    examples: int

    @property
    def cost(self) -> int:
        return 1 + len(self.without) + len(self.strongest)


def by_loss(objective: Objective, examples: list[Example], template: Template) -> Objective:
    """The objective, or the same mixtures by cross-entropy where it searched something else."""
    if objective.config.objective in LOSSES:
        return objective
    config = replace(objective.config, objective="paper")
    return Objective.of(
        objective.base, objective.stack, examples, template, config, chunk=objective.chunk
    )


def ablate(objective: Objective, weights: Array) -> Ablation:
    """weights (N,), or (K·N,) with K blocks: a module is left out of all its blocks.

    Costs a forward for each module with a weight, and a few more.
    """
    N = len(objective.stack)
    blocks = np.asarray(weights, dtype=np.float64).reshape(-1, N)
    size = np.abs(blocks).mean(axis=0)
    used = [int(n) for n in np.flatnonzero(size)]
    order = sorted(used, key=lambda n: -size[n])
    kept = {count: tuple(order[:count]) for count in STRONGEST if count < len(used)}
    rows = [blocks, *(_without(blocks, [n]) for n in used)]
    rows += [_without(blocks, [n for n in used if n not in some]) for some in kept.values()]
    found = measure(objective, np.stack([row.ravel() for row in rows]))
    whole, without, strongest = found[0], found[1 : 1 + len(used)], found[1 + len(used) :]
    return Ablation(
        whole,
        dict(zip(used, without, strict=True)),
        {
            count: (some, variant)
            for (count, some), variant in zip(kept.items(), strongest, strict=True)
        },
        objective.examples,
    )


def measure(objective: Objective, weights: Array) -> list[Variant]:
    """(P, K·N) -> each candidate's loss and exact answers; no penalty counts."""
    losses, exact = objective.example_answers(weights)
    means = objective.reduce(losses)
    return [Variant(float(loss), int(hits.sum())) for loss, hits in zip(means, exact, strict=True)]


def _without(blocks: Array, modules: list[int]) -> Array:
    found = blocks.copy()
    found[:, modules] = 0.0
    return found

"""Functions with known minima, to see optimisers alone: no model, no examples to overfit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Function:
    """A function f (P, n) -> (P,) and its gradient, in the form a search asks for: one example."""

    value: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    examples: int = 1

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return self.value(weights)

    def example_losses(self, weights: np.ndarray) -> np.ndarray:
        return self.value(weights)[:, None]

    def reduce(self, example_losses: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        return example_losses[:, 0]

    def penalty(self, weights: np.ndarray) -> np.ndarray:
        return np.zeros(len(weights))

    def loss_and_gradient(
        self, weights: np.ndarray, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.example_losses(weights), self.slope(weights)


def quadratic(seed: int, n: int) -> Function:
    """Σ d_i (w_i - a_i)², d from 1 to 10, in a random orthogonal basis; a_i ~ N(0, ½²)."""
    draw = np.random.default_rng(seed)
    aim = draw.normal(0, 0.5, n)
    basis = np.linalg.qr(draw.normal(size=(n, n)))[0]
    curved = basis @ np.diag(np.geomspace(1, 10, n)) @ basis.T

    def value(w: np.ndarray) -> np.ndarray:
        return np.einsum("pi,ij,pj->p", w - aim, curved, w - aim)

    return Function(value, lambda w: 2 * (w - aim) @ curved)


def valley(seed: int, n: int) -> Function:
    """Rosenbrock's: Σ 10 (w_{i+1} - w_i²)² + (1 - w_i)², the order of the weights at random."""
    order = np.random.default_rng(seed).permutation(n)

    def value(w: np.ndarray) -> np.ndarray:
        x = w[:, order]
        return (10 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(axis=1)

    def slope(w: np.ndarray) -> np.ndarray:
        x = w[:, order]
        bend = x[:, 1:] - x[:, :-1] ** 2
        found = np.zeros_like(x)
        found[:, 1:] += 20 * bend
        found[:, :-1] -= 40 * bend * x[:, :-1] + 2 * (1 - x[:, :-1])
        back = np.zeros_like(x)
        back[:, order] = found
        return back

    return Function(value, slope)


FUNCTIONS: dict[str, Callable[[int, int], Function]] = {
    "quadratic, condition 10": quadratic,
    "Rosenbrock's valley": valley,
}

"""What a search is compared with: the simple ways to use the same modules, and a control."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer.engine.objective import Objective
from composer.engine.stack import Stack

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """Something to compare a search with. `cost` is in forward-equivalents: one candidate on all
    examples is 1, a gradient step is 3. Predict with its own stack, weights, combination and
    blocks."""

    name: str
    stack: Stack
    weights: Array
    combination: str
    cost: int
    loss: float | None = None
    blocks: str = "all"


# Scales that are tried where one is tuned: half on a grid, half between the best one's neighbours.
SCALES = 20


def best_single(objective: Objective) -> Contender:
    """The one module, at weight 1, with the lowest loss on the examples. Costs N."""
    stack = objective.stack
    singles = np.eye(len(stack))
    losses = _as_sum(objective).task_loss(singles)
    best = int(np.argmin(losses))
    return Contender(
        name="best single module",
        stack=stack,
        weights=singles[best],
        combination="sum",
        cost=len(stack),
        loss=float(losses[best]),
    )


def best_single_scaled(objective: Objective, scales: int = SCALES) -> Contender:
    """The best single module at its best weight, from 1/8 to 2. Costs N and the scales tried."""
    single = best_single(objective)
    return _scaled("best single module, scale tuned", objective, single, 1 / 8, 2.0, scales)


def uniform_weights(n: int) -> Array:
    """1/N for every module."""
    return np.full(n, 1.0 / n)


def uniform(stack: Stack) -> Contender:
    """The plain mean of all modules' ΔW (`sum` with 1/N). Costs nothing."""
    return Contender(
        name="uniform average",
        stack=stack,
        weights=uniform_weights(len(stack)),
        combination="sum",
        cost=0,
    )


def uniform_scaled(objective: Objective, scales: int = SCALES) -> Contender:
    """All modules at one weight c/N, c from 1/4 of the mean to N: each at 1. Costs the scales."""
    mean = uniform(objective.stack)
    N = len(objective.stack)
    return _scaled("uniform average, scale tuned", objective, mean, 1 / 4, float(max(N, 1)), scales)


def _scaled(
    name: str, objective: Objective, start: Contender, low: float, high: float, scales: int
) -> Contender:
    """The start's weights times the scale of lowest loss, scale 1 among them.

    The first half of the scales is a geometric grid from low to high, the second half another
    between the neighbours of its best.
    """
    measure = _as_sum(objective).task_loss
    grid = grid_of_scales(low, high, scales)
    losses = measure(np.outer(grid, start.weights))
    rest = scales - len(grid)
    if rest > 0:
        best = int(np.argmin(losses))
        ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        finer = np.geomspace(*ends, rest + 2)[1:-1]
        grid = np.concatenate([grid, finer])
        losses = np.concatenate([losses, measure(np.outer(finer, start.weights))])
    best = int(np.argmin(losses))
    return Contender(
        name=name,
        stack=start.stack,
        weights=grid[best] * start.weights,
        combination="sum",
        cost=start.cost + len(grid),
        loss=float(losses[best]),
    )


def grid_of_scales(low: float, high: float, scales: int = SCALES) -> Array:
    """Half of the scales, a geometric grid with 1 among them."""
    return np.unique([1.0, *np.geomspace(low, high, max(2, scales // 2 - 1))])


def size_of(found: Contender) -> int:
    """Bytes of its adapter in float32: Σ r(D_in + D_out) over layers, where r adds up for `sum` the
    ranks of the modules with a weight other than zero."""
    blocks = np.asarray(found.weights).reshape(-1, len(found.stack))
    used = np.flatnonzero(blocks.any(axis=0))
    numbers = 0
    for layer, place in found.stack.places.items():
        ranks = [found.stack.ranks[layer][n] for n in used]
        r = sum(ranks) if found.combination == "sum" else max(ranks, default=0)
        numbers += r * (place.d_in + place.d_out)
    return 4 * numbers


def _as_sum(objective: Objective) -> Objective:
    """The same objective for weights (P, N) that are added up exactly."""
    found = copy.copy(objective)
    found.config = replace(objective.config, combination="sum", blocks="all")
    return found


def randomised_stack(stack: Stack, seed: int) -> Stack:
    """A control: the same stack pointing in random directions.

    With thin QR, B_i = Q R and A_iᵀ = Q' R'; each Q is replaced by a random orthonormal frame of
    its shape. Every B_i, A_i and ΔW_i keeps its singular values, so all norms are the same.
    """
    generator = torch.Generator().manual_seed(seed)
    A = {layer: _turned(factor, generator) for layer, factor in stack.A.items()}
    B = {layer: _turned(factor, generator) for layer, factor in stack.Bt.items()}
    turned = stack.with_factors(A, {layer: factor.transpose(1, 2) for layer, factor in B.items()})
    return replace(turned, names=tuple(f"random:{name}" for name in stack.names))


def rotated_stack(stack: Stack, seed: int) -> Stack:
    """The same modules, each stored in another basis: (B, A) -> (B Qᵀ, Q A), Q random orthogonal.

    Every ΔW_i is what it was. `sum` does not notice; `lorahub` and `linear` add factors entry by
    entry and give another adapter for each basis. Q is drawn for each module and layer, in the
    module's own rank r: what is filled up with zeros stays so.
    """
    generator = torch.Generator().manual_seed(seed)
    A, B = {}, {}
    for layer, ranks in stack.ranks.items():
        Q = torch.stack([_rotation(r, stack.places[layer].R, generator) for r in ranks])
        old_A, old_B = stack.A[layer], stack.B[layer]
        A[layer] = (Q @ old_A.double().cpu()).to(old_A)
        B[layer] = (old_B.double().cpu() @ Q.transpose(1, 2)).to(old_B)
    return stack.with_factors(A, B)


def _rotation(r: int, size: int, generator: torch.Generator) -> Tensor:
    """Orthogonal (size, size), uniform on its first r directions and nothing on the others: QR of
    a normal matrix with the signs of R's diagonal (Mezzadri, math-ph/0609050)."""
    found = torch.eye(size, dtype=torch.float64)
    noise = torch.randn(r, r, generator=generator, dtype=torch.float64)
    Q, upper = torch.linalg.qr(noise)
    found[:r, :r] = Q * upper.diagonal().sign()
    return found


def _turned(factor: Tensor, generator: torch.Generator) -> Tensor:
    """(N, R, D) -> (N, R, D), each (D, R) with its column space turned at random."""
    columns = factor.transpose(1, 2).double().cpu()
    upper = torch.linalg.qr(columns).R  # (N, K, R)
    noise = torch.randn(
        columns.shape[0], columns.shape[1], upper.shape[1],
        generator=generator, dtype=torch.float64,
    )  # fmt: skip
    frame = torch.linalg.qr(noise).Q  # (N, D, K)
    turned: Tensor = (frame @ upper).transpose(1, 2).contiguous()
    return turned.to(factor.device, factor.dtype)

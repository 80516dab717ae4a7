"""What a search is compared with: the simple ways to use the same modules, and a control."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer.engine.loss import Objective
from composer.engine.stack import Stack

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """Something to compare a search with. `cost` is in forward-equivalents: one candidate on all
    examples is 1, a gradient step is 3. Predict with its own stack, weights and combination."""

    name: str
    stack: Stack
    weights: Array
    combination: str
    cost: int
    loss: float | None = None


def best_single(objective: Objective) -> Contender:
    """The one module, at weight 1, with the lowest loss on the examples. Costs N."""
    stack = objective.stack
    singles = np.eye(len(stack))
    losses = objective.task_loss(singles)
    best = int(np.argmin(losses))
    return Contender(
        name="best single module",
        stack=stack,
        weights=singles[best],
        combination="sum",
        cost=len(stack),
        loss=float(losses[best]),
    )


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

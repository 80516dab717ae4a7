"""The gradient of an objective by its weights, through the same forward as its losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from composer.engine.chunk import bounded

if TYPE_CHECKING:
    from composer.engine.objective import Objective

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


def loss_and_gradient(
    objective: Objective, weights: Array, rows: Rows | None = None
) -> tuple[Array, Array]:
    """weights (1, n) -> losses by example (1, B), gradient (1, n) of L = reduce(·, rows) + penalty.

    The task loss is linear in the losses by example, Σ_b c_b l_b, so
        ∂L/∂w_i = Σ_b c_b ∂l_b/∂w_i + penalty(e_i) · sign(w_i)
    with 0 for the kink of |w_i| at 0. One backward for each part of the examples that fits into
    one forward. The gradient is not finite where a loss is not.
    """
    shares = torch.zeros(objective.examples, dtype=torch.float64)
    shares[slice(None) if rows is None else torch.as_tensor(rows)] = torch.as_tensor(
        objective.shares(rows)
    )
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    losses = np.empty((1, objective.examples))
    with torch.enable_grad(), bounded(objective.chunk):
        for some in objective.parts():
            found = objective.losses_of(objective.compose(w), some)[0]
            (found * shares[some].to(found.device)).sum().backward()  # type: ignore[no-untyped-call]
            losses[0, some] = found.detach().cpu().numpy()
    assert w.grad is not None
    slopes = objective.penalty(np.eye(weights.shape[1]))
    return losses, w.grad.numpy() + slopes * np.sign(weights)

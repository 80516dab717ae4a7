"""Which modules are nearly the same: the cosine of what they add to the base model's weights.

Uploads are copied, renamed and saved again; mixed together, copies take the place of others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from composer.engine.stack import Stack

Array = NDArray[np.float64]
NEARLY = 0.95


def cosines(stack: Stack) -> Array:
    """(N, N): ⟨ΔW_i, ΔW_j⟩ / ‖ΔW_i‖‖ΔW_j‖ over all layers, without forming any ΔW:

    ⟨B_i A_i, B_j A_j⟩ = Σ (B_iᵀ B_j) ∘ (A_i A_jᵀ)
    """
    N = len(stack)
    dots = np.zeros((N, N))
    with torch.inference_mode():
        for layer, A in stack.A.items():
            R = A.shape[1]
            left, right = A.flatten(0, 1).double(), stack.Bt[layer].flatten(0, 1).double()
            both = (left @ left.T) * (right @ right.T)  # (N·R, N·R)
            dots += both.view(N, R, N, R).sum(dim=(1, 3)).cpu().numpy()
    norms = np.sqrt(np.diagonal(dots))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = dots / np.outer(norms, norms)
    found[~np.isfinite(found)] = 0.0  # a module that adds nothing is like no other
    np.fill_diagonal(found, 1.0)
    return found


def folded(likeness: Array, ranking: Sequence[int], nearly: float = NEARLY) -> dict[int, list[int]]:
    """The modules that stand for themselves, in the order of the ranking, each with those behind
    it that are nearly the same."""
    groups: dict[int, list[int]] = {}
    for module in ranking:
        same = next((first for first in groups if likeness[first, module] >= nearly), None)
        if same is None:
            groups[module] = []
        else:
            groups[same].append(module)
    return groups

"""Fewer directions for the same ΔW, as well as that can be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Truncated:
    """A (rank, D_in) and B (D_out, rank) of each layer, and what was lost there.

    errors  ‖ΔW - B A‖ / ‖ΔW‖ of each layer, in the Frobenius norm; 0 where ΔW is 0
    """

    A: Mapping[str, Tensor]
    B: Mapping[str, Tensor]
    errors: Mapping[str, float]
    rank: int


def truncate(A: Mapping[str, Tensor], B: Mapping[str, Tensor], rank: int) -> Truncated:
    """The best approximation of ΔW = B A of this rank (Eckart and Young 1936).

    ΔW itself is never made: with B = Q R and Aᵀ = Q' R', the SVD of the small R R'ᵀ is that of ΔW.

    A[layer] (K, D_in), B[layer] (D_out, K) -> A (rank, D_in), B (D_out, rank). Where ΔW has fewer
    directions than rank, the rest is zeros.
    """
    found = {layer: _truncate(A[layer], B[layer], rank) for layer in A}
    return Truncated(
        A={layer: each[0] for layer, each in found.items()},
        B={layer: each[1] for layer, each in found.items()},
        errors={layer: each[2] for layer, each in found.items()},
        rank=rank,
    )


def _truncate(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    left, right = torch.linalg.qr(B.double()), torch.linalg.qr(A.double().T)
    U, S, Vt = torch.linalg.svd(left.R @ right.R.T, full_matrices=False)
    kept = min(rank, len(S))
    root = S[:kept].sqrt()
    short_A = torch.zeros(rank, A.shape[1], dtype=A.dtype)
    short_B = torch.zeros(B.shape[0], rank, dtype=B.dtype)
    short_A[:kept] = (root[:, None] * (Vt[:kept] @ right.Q.T)).to(A.dtype)
    short_B[:, :kept] = ((left.Q @ U[:, :kept]) * root).to(B.dtype)
    whole = float(S.square().sum())
    error = (float(S[kept:].square().sum()) / whole) ** 0.5 if whole else 0.0
    return short_A, short_B, error

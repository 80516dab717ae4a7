"""Mixing N modules into P candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer.engine.blocks import block_of, count
from composer.engine.errors import IncompatibleModules
from composer.engine.stack import Stack

Weights = Tensor | NDArray[np.float64] | Sequence[Sequence[float]]


@dataclass(frozen=True)
class Factors:
    """The low-rank terms of P candidates: y_p = W x + delta_p(x).

    own factors     A (P, R, D_in), Bt (P, R, D_out), scale None:   delta_p = B_p A_p x
    shared factors  A (K, D_in), Bt (K, D_out), scale[layer] (P, K): delta_p = B diag(scale_p) A x
                    owner[layer] (K,) says which module each of the K directions belongs to; those
                    of one module lie together and have one scale
    """

    A: Mapping[str, Tensor]
    Bt: Mapping[str, Tensor]
    scale: Mapping[str, Tensor] | None
    candidates: int
    owner: Mapping[str, Tensor] | None = None


def compose(weights: Weights, stack: Stack, combination: str, blocks: str = "all") -> Factors:
    """Mix N modules into P candidates; the stack's factors have √s_n folded in.

    sum, exact and linear in w; A and B of all modules stay shared, K = Σ r_n:
        ΔW[p] = Σ_n w[p, n] s_n B_n A_n
    lorahub (Huang et al. 2023, arXiv 2307.13269, equation 1), each factor on its own:
        A[p] = Σ_n w[p, n] √s_n A_n          B[p] = Σ_n w[p, n] √s_n B_n
        so ΔW[p] = Σ_n Σ_m w[p, n] w[p, m] √(s_n s_m) B_n A_m
    linear, as PEFT's add_weighted_adapter has it:
        A[p] = Σ_n sign(w) √(|w[p, n]| s_n) A_n    B[p] = Σ_n √(|w[p, n]| s_n) B_n

    weights (P, N), or (P, K·N) with K blocks of layers: column k·N + n is module n in block k.
    """
    stack.check(combination)
    w = torch.as_tensor(weights, dtype=stack.rows.dtype, device=stack.rows.device)
    P, N, K = len(w), len(stack), count(blocks)
    if w.shape[1] != N * K:
        wanted = f"{N} modules" if K == 1 else f"{N} modules in {K} blocks"
        raise IncompatibleModules(f"There are {wanted} but {w.shape[1]} weights a candidate.")
    block = block_of(stack.places, blocks)
    if combination == "sum":
        return _sum(w.view(P, K, N), stack, block)
    if combination == "linear":
        root = w.abs().sqrt()
        return _mixed(root * w.sign(), root, stack, block, K)
    return _mixed(w, w, stack, block, K)


def _sum(w: Tensor, stack: Stack, block: Mapping[str, int]) -> Factors:
    """w (P, K, N)"""
    shared = stack.shared
    return Factors(
        A={layer: A for layer, (A, _, _) in shared.items()},
        Bt={layer: Bt for layer, (_, Bt, _) in shared.items()},
        scale={layer: w[:, block[layer], owner] for layer, (_, _, owner) in shared.items()},
        candidates=len(w),
        owner={layer: owner for layer, (_, _, owner) in shared.items()},
    )


def _mixed(
    w_a: Tensor, w_b: Tensor, stack: Stack, block: Mapping[str, int], blocks: int
) -> Factors:
    """A mixed by w_a, B by w_b, both (P, K·N): one product over all layers for each block."""
    P, N = len(w_a), len(stack)
    mixed_a = [w_a[:, k * N : (k + 1) * N] @ stack.rows for k in range(blocks)]
    mixed_b = mixed_a
    if w_b is not w_a:
        mixed_b = [w_b[:, k * N : (k + 1) * N] @ stack.rows for k in range(blocks)]
    places = stack.places.items()
    return Factors(
        A={layer: place.A(mixed_a[block[layer]]) for layer, place in places},
        Bt={layer: place.B(mixed_b[block[layer]]).transpose(1, 2) for layer, place in places},
        scale=None,
        candidates=P,
    )

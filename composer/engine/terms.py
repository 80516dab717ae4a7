"""The low-rank terms that candidates add to one layer: y_p = W x_p + term_p(x_p)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from composer.engine.compose import Factors

# Building the modules' ΔW_n goes over so many rows of W at a time that these numbers stay in cache.
CACHED = 1 << 21
# Reading a number from memory takes about as long as this many multiply-adds (measured: a core does
# about 45e9 of these a second and reads about 2.5e9 numbers).
READ = 16


@dataclass(frozen=True)
class Term:
    """One layer's term of P candidates, in the layer's dtype and on its device.

    own factors     A (P, R, D_in), Bt (P, R, D_out), scale None
    shared factors  A (K, D_in), Bt (K, D_out), scale (P, K); K = Σ r_n, module-major, owner (K,)
    """

    A: Tensor
    Bt: Tensor
    scale: Tensor | None
    owner: Tensor | None = None

    def add(self, y: Tensor, x: Tensor) -> Tensor:
        """y + term(x), a new tensor, y and x (P, S, D); gradients flow through it."""
        if self.scale is None:
            return y + (x @ self.A.transpose(1, 2)) @ self.Bt
        return y + ((x @ self.A.T) * self.scale[:, None]) @ self.Bt

    def add_(self, y: Tensor, x: Tensor) -> Tensor:
        """The same into y, which must be contiguous; x (P, S, D_in) or one for all (1, S, D_in)."""
        if self.scale is None:
            xa = self.inner(x)
            return y.baddbmm_(xa, self.Bt)
        y.view(-1, y.shape[-1]).addmm_(self.inner(x).flatten(0, 1), self.Bt)
        return y

    def inner(self, x: Tensor) -> Tensor:
        """What stands between the factors, (P, S, R): A_p x_p, or scale_p * (A x_p)."""
        if self.scale is None:
            P, R, D = self.A.shape
            if x.shape[0] == 1 < P:  # one product for all
                return (x[0] @ self.A.reshape(P * R, D).T).view(-1, P, R).transpose(0, 1)
            return torch.bmm(x, self.A.transpose(1, 2))
        return (x @ self.A.T) * self.scale[:, None]

    def some(self, chosen: slice) -> Term:
        """The term of some of the candidates."""
        if self.scale is None:
            return Term(self.A[chosen], self.Bt[chosen], None)
        return Term(self.A, self.Bt, self.scale[chosen], self.owner)


def term_of(factors: Factors, layer: str, like: Tensor) -> Term:
    """A layer's term, in the dtype and on the device of what the layer reads."""
    A, Bt = (each[layer].to(like.device, like.dtype) for each in (factors.A, factors.Bt))
    if factors.scale is None:
        return Term(A, Bt, None)
    scale = factors.scale[layer].to(like.device, like.dtype)
    owner = None if factors.owner is None else factors.owner[layer].to(like.device)
    return Term(A, Bt, scale, owner)


def pays_dense(term: Term, rows: int) -> bool:
    """Whether `dense` and a product with W + ΔW_p cost less than the thin products of shared
    factors; `rows` is what a candidate's layer reads.

    thin    P·rows·K·(D_in + D_out)
    dense   K·D_in·D_out to write the modules' ΔW_n down, then N·D_in·D_out for each candidate,
            which waits for memory when candidates are few
    """
    if term.scale is None or term.owner is None:
        return False
    # In 16 bits W + ΔW_p would be rounded; on a GPU none of this was measured.
    if term.A.dtype != torch.float32 or term.A.device.type != "cpu":
        return False
    P, K = term.scale.shape
    N = len(torch.unique_consecutive(term.owner))
    d_in, d_out = term.A.shape[1], term.Bt.shape[1]
    thin = P * rows * K * (d_in + d_out)
    return d_in * d_out * (2 * K + N * max(P, READ) + 2 * P) < thin


def dense(term: Term, weight: Tensor) -> Tensor:
    """W + ΔW_p of shared factors, (P, D_out, D_in): ΔW_p = Σ_n w_pn B_n A_n.

    A module has one weight in one layer, so its ΔW_n is written down once and mixed for all
    candidates by one product; weight (D_out, D_in).
    """
    assert term.scale is not None and term.owner is not None
    d_out, d_in = weight.shape
    _, ranks = torch.unique_consecutive(term.owner, return_counts=True)
    w = term.scale[:, ranks.cumsum(0) - 1].contiguous()  # (P, N)
    A, B = _apart(term.A, ranks), _apart(term.Bt, ranks).transpose(1, 2)
    mixed = weight.new_empty(len(w), d_out, d_in)
    step = max(1, CACHED // (len(ranks) * d_in))
    for first in range(0, d_out, step):
        rows = slice(first, min(first + step, d_out))
        each = torch.bmm(B[:, rows], A).flatten(1)  # (N, rows·D_in)
        torch.add((w @ each).view(len(w), -1, d_in), weight[rows], out=mixed[:, rows])
    return mixed


def _apart(factor: Tensor, ranks: Tensor) -> Tensor:
    """(K, D) -> (N, R, D), smaller ranks filled up with zeros."""
    N, R = len(ranks), int(ranks.max())
    if len(factor) == N * R:
        return factor.view(N, R, -1)
    apart = factor.new_zeros(N, R, factor.shape[1])
    apart[torch.arange(R, device=ranks.device) < ranks[:, None]] = factor
    return apart

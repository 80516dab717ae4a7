"""Products with W and each candidate's own term, for models whose forward is written here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from composer.engine.compose import Factors
from composer.engine.linear import linear, linear_gelu, linear_plus, linear_times
from composer.engine.terms import Term, dense, pays_dense, term_of


@dataclass(frozen=True)
class Product:
    """x (P, S, D_in) -> W x + term(x), (P, S, D_out).

    weight (D_out, D_in); term None where a layer is not adapted; whole (P, D_out, D_in) is W + ΔW_p
    where it pays to write that down.
    """

    weight: Tensor
    term: Term | None = None
    whole: Tensor | None = None

    def some(self, chosen: slice) -> Product:
        """The same for some of the candidates."""
        if self.term is None:
            return self
        whole = self.whole[chosen] if self.whole is not None else None
        return Product(self.weight, self.term.some(chosen), whole)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if self.whole is not None:
            each = [linear(x[p], whole) for p, whole in enumerate(self.whole)]
            return torch.stack(each) if len(each) > 1 else each[0][None]
        y = linear(x, self.weight)
        return y if self.term is None else self.term.add_(y, x)

    def onto(self, h: Tensor, x: Tensor) -> Tensor:
        """h + W x + term(x), h (P, S, D_out)"""
        x = x.to(self.weight.dtype)
        if h.dtype != x.dtype or self.whole is not None:
            return h + self(x)
        y = linear_plus(x, self.weight, h)
        return y if self.term is None else self.term.add_(y, x)

    def gelu(self, x: Tensor) -> Tensor:
        """gelu(W x + term(x)), the tanh approximation."""
        if self.term is None:
            return linear_gelu(x.to(self.weight.dtype), self.weight)
        return F.gelu(self(x), approximate="tanh")

    def times(self, x: Tensor, y: Tensor) -> Tensor:
        """y * (W x + term(x)); y is not kept."""
        if self.term is None:
            return linear_times(x.to(self.weight.dtype), self.weight, y)
        return y.mul_(self(x))

    def from_one(self, x: Tensor, y: Tensor) -> Tensor:
        """x (1, S, D_in) is the same for all candidates, and y (1, S, D_out) is W x."""
        if self.term is None:
            return y
        x = x.to(self.weight.dtype)
        term = self.term
        inner = term.inner(x)  # (P, S, R)
        Bt = term.Bt if term.scale is None else term.Bt.expand(len(inner), -1, -1)
        return torch.baddbmm(y.expand(len(inner), -1, -1), inner, Bt)

    def against(self, q: Tensor, heads: int) -> Tensor:
        """(W_h + ΔW_h)ᵀ q_h of each head h: q (P, S, H·d) -> (P, S, H, D_in)"""
        P, S, inner = q.shape
        d, D = inner // heads, self.weight.shape[1]
        per_head = q.view(P * S, heads, d).transpose(0, 1)  # (H, P·S, d)
        if self.whole is not None:
            found = torch.einsum(
                "pshd,phdi->pshi", q.view(P, S, heads, d), _heads(self.whole, heads)
            )
            return found.contiguous()
        y = torch.bmm(per_head, self.weight.view(heads, d, D))  # (H, P·S, D)
        y = y.transpose(0, 1).contiguous().view(P, S * heads, D)
        if self.term is not None:
            term = self.term
            if term.scale is None:
                Bt = term.Bt.reshape(P, -1, heads, d)
                inner_term = torch.einsum("pshd,prhd->pshr", q.view(P, S, heads, d), Bt)
                y.baddbmm_(inner_term.reshape(P, S * heads, -1), term.A)
            else:
                Bt = term.Bt.reshape(-1, heads, d).permute(1, 2, 0)
                xb = torch.bmm(per_head, Bt).transpose(0, 1).reshape(P, S * heads, -1)
                y.view(P * S * heads, D).addmm_((xb * term.scale[:, None]).flatten(0, 1), term.A)
        return y.view(P, S, heads, D)

    def per_head(self, x: Tensor, heads: int) -> Tensor:
        """(W_h + ΔW_h) x_h of each head h: x (P, S, H, D_in) -> (P, S, H·d)"""
        P, S, _, D = x.shape
        d = self.weight.shape[0] // heads
        if self.whole is not None:
            found = torch.einsum("pshi,phdi->pshd", x, _heads(self.whole, heads))
            return found.reshape(P, S, heads * d)
        apart = x.view(P * S, heads, D).transpose(0, 1)  # (H, P·S, D)
        y = torch.bmm(apart, self.weight.view(heads, d, D).transpose(1, 2))  # (H, P·S, d)
        y = y.transpose(0, 1).reshape(P, S, heads, d)
        if self.term is not None:
            term = self.term
            xa = term.inner(x.view(P, S * heads, D)).view(P, S, heads, -1)
            if term.scale is None:
                y = y + torch.einsum("pshr,prhd->pshd", xa, term.Bt.reshape(P, -1, heads, d))
            else:
                y = y + torch.einsum("pshk,khd->pshd", xa, term.Bt.reshape(-1, heads, d))
        return y.reshape(P, S, heads * d)


def _heads(whole: Tensor, heads: int) -> Tensor:
    """(P, H·d, D) -> (P, H, d, D)"""
    return whole.view(whole.shape[0], heads, -1, whole.shape[2])


def product_of(name: str, weight: Tensor, factors: Factors | None, rows: int) -> Product:
    """A layer's product for all candidates of `factors`; each of them reads `rows` rows."""
    if factors is None or name not in factors.A:
        return Product(weight)
    term = term_of(factors, name, weight)
    if pays_dense(term, rows):
        return Product(weight, term, dense(term, weight))
    return Product(weight, term)

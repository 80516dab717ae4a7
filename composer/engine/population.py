"""One forward for a whole population: the original layers, plus each candidate's own term."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from composer.engine.base_model import BaseModel
from composer.engine.compose import Factors
from composer.engine.errors import IncompatibleModules
from composer.engine.linear import forwarding, is_plain, linear
from composer.engine.terms import dense, pays_dense, term_of

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def attached(base: BaseModel, factors: Factors, rows: int) -> Iterator[None]:
    """Inside, the model computes P candidates: row p·B + b is candidate p on example b.

    rows is P·B. The original layer is called as it is, whatever it is (nn.Linear, Conv1D, a
    quantised linear, on whatever device), and the low-rank term is added to what it returns. Only
    where shared factors are so many that a product with W + ΔW_p costs less, an nn.Linear gives way
    to that.
    """
    P = factors.candidates
    if rows % P:
        raise ValueError(f"{rows} rows cannot be split between {P} candidates")
    with ExitStack() as hooks:
        for name in factors.A:
            layer = base.layer(name)
            if layer is None:
                raise IncompatibleModules(f"{base.folder.name} has no layer {name!r}.")
            if factors.scale is not None and not torch.is_grad_enabled() and is_plain(layer):
                hooks.enter_context(_giving_way(layer, factors, rows, name))
            hooks.callback(layer.register_forward_hook(_adding(factors, rows, name)).remove)
        yield


def _adding(factors: Factors, rows: int, name: str) -> Hook:
    """y_p += term_p(x_p); x (P·B, T, D_in) -> (P, B·T, D_in)"""
    P = factors.candidates

    def add(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        if getattr(module, "_has_added", False):
            return y
        x = _candidate_major(args[0], P, rows, name)
        term = term_of(factors, name, x)
        if type(module) is nn.Linear and not torch.is_grad_enabled():  # y is nobody else's
            return term.add_(y.view(P, -1, y.shape[-1]), x).view(y.shape)
        return term.add(y.reshape(P, -1, y.shape[-1]), x).view(y.shape).to(y.dtype)

    return add


@contextmanager
def _giving_way(layer: nn.Module, factors: Factors, rows: int, name: str) -> Iterator[None]:
    """Inside, the layer multiplies with each candidate's W + ΔW_p where that pays."""
    P = factors.candidates
    assert isinstance(layer, nn.Linear)

    def forward(x: Tensor) -> Tensor:
        mine = _candidate_major(x, P, rows, name)
        term = term_of(factors, name, x)
        layer._has_added = pays_dense(term, mine.shape[1])  # type: ignore[assignment]
        if not layer._has_added:
            return linear(x, layer.weight, layer.bias)
        whole = dense(term, layer.weight)
        y = torch.stack([linear(mine[p], whole[p], layer.bias) for p in range(P)])
        return y.view(*x.shape[:-1], -1)

    try:
        with forwarding(layer, forward):
            yield
    finally:
        layer.__dict__.pop("_has_added", None)


def _candidate_major(x: Tensor, P: int, rows: int, name: str) -> Tensor:
    if P > 1 and x.shape[0] not in (rows, P):
        # Experts and the like reorder rows: we could no longer tell whose row is whose.
        raise IncompatibleModules(
            f"The layer {name!r} reads {x.shape[0]} rows instead of {rows}: this kind of model "
            "cannot be searched a population at a time."
        )
    return x.reshape(P, -1, x.shape[-1])

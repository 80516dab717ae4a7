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

Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def attached(base: BaseModel, factors: Factors, rows: int) -> Iterator[None]:
    """Inside, the model computes P candidates: row p·B + b is candidate p on example b.

    rows is P·B. The original layer is called as it is, whatever it is (nn.Linear, Conv1D, a
    quantised linear), and the low-rank term is added to what it returns.
    """
    P = factors.candidates
    if rows % P:
        raise ValueError(f"{rows} rows cannot be split between {P} candidates")
    with ExitStack() as hooks:
        for name, A in factors.A.items():
            layer = base.layer(name)
            if layer is None:
                raise IncompatibleModules(f"{base.folder.name} has no layer {name!r}.")
            if factors.scale is None:
                hook = _own(A, factors.Bt[name], rows, name)
            else:
                hook = _shared(A, factors.Bt[name], factors.scale[name], rows, name)
            hooks.callback(layer.register_forward_hook(hook).remove)
        yield


def _own(A: Tensor, Bt: Tensor, rows: int, name: str) -> Hook:
    """y_p += B_p A_p x_p, one batched product a factor.

    x (P·B, T, D_in) -> (P, B·T, D_in); A (P, R, D_in), Bt (P, R, D_out)
    """
    P = A.shape[0]

    def add(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        x = _candidate_major(args, P, rows, name)
        xa = torch.bmm(x, A.transpose(1, 2).to(x.dtype))
        return y + torch.bmm(xa, Bt.to(x.dtype)).view(y.shape).to(y.dtype)

    return add


def _shared(A: Tensor, Bt: Tensor, scale: Tensor, rows: int, name: str) -> Hook:
    """y_p += B (scale_p * (A x_p)): two products over all rows, whatever P is.

    x (P·B, T, D_in) -> (P, B·T, D_in); A (K, D_in), Bt (K, D_out), scale (P, K)
    """
    P = scale.shape[0]

    def add(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        x = _candidate_major(args, P, rows, name)
        xa = (x @ A.T.to(x.dtype)) * scale[:, None, :].to(x.dtype)
        return y + (xa @ Bt.to(x.dtype)).view(y.shape).to(y.dtype)

    return add


def _candidate_major(args: tuple[Any, ...], P: int, rows: int, name: str) -> Tensor:
    x: Tensor = args[0]
    if P > 1 and x.shape[0] != rows:
        # Experts and the like reorder rows: we could no longer tell whose row is whose.
        raise IncompatibleModules(
            f"The layer {name!r} reads {x.shape[0]} rows instead of {rows}: this kind of model "
            "cannot be searched a population at a time."
        )
    return x.reshape(P, -1, x.shape[-1])

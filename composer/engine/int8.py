"""Products in 8 bits on the CPU, for a first look at many modules: 1% off, 2 to 3 times as fast.

    x Wᵀ ≈ (s_x s_wᵀ) * (X Wᵢᵀ),   X = round(x / s_x),   Wᵢ = round(W / s_w)

with a scale for each row of x and of W, s = max |·| / 127, as in LLM.int8 (Dettmers et al. 2022,
arXiv 2208.07339) but without its outliers kept apart. The sums are exact, in int32. Low-rank terms,
attention, norms and the head stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from composer.engine import memory
from composer.engine.base_model import BaseModel

# Narrower layers spend what they gain on rounding (measured, one thread: 1.2 times at 128, 1.7 at
# 256, 2.9 at 1024).
NARROWEST = 256
# Rows multiplied and scaled at a time: enough for several threads, few enough for the cache.
ROWS = 2048
LEVELS = 127


@dataclass(frozen=True)
class Int8:
    """A weight (D_out, D_in) as int8 numbers of that shape, and a scale (D_out,) in float32."""

    numbers: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> Int8:
        numbers, scale = _rounded(weight)
        return cls(numbers, scale[:, 0])

    def product(self, x: Tensor) -> Tensor:
        """x (..., D_in) -> (..., D_out), float32"""
        rows = x.reshape(-1, x.shape[-1])
        y = rows.new_empty(len(rows), len(self.numbers))
        for first in range(0, len(rows), ROWS):
            some = slice(first, first + ROWS)
            numbers, scale = _rounded(rows[some])
            sums = torch._int_mm(numbers, self.numbers.T)
            torch.mul(sums, scale, out=y[some]).mul_(self.scale)
        return y.view(*x.shape[:-1], -1)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(n, D) -> int8 (n, D) and the scale of each row, (n, 1)"""
    scale = rows.abs().amax(dim=1, keepdim=True).div_(LEVELS)  # torch's ∞-norm is 5 times as slow
    scale.clamp_(min=torch.finfo(torch.float32).tiny)
    return (rows / scale).round_().to(torch.int8), scale


_weights: ContextVar[dict[int, Int8] | None] = ContextVar("int8_weights", default=None)


def of(weight: Tensor) -> Int8 | None:
    """The weight in 8 bits, inside `in_8_bits` of its model."""
    known = _weights.get()
    return None if known is None else known.get(id(weight))


def pays(base: BaseModel) -> bool:
    """Whether 8 bits are faster here: a processor that multiplies them as such (VNNI), a model in
    float32 with layers wide enough, and memory for a quarter of it."""
    if base.device.type != "cpu" or not _has_vnni() or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    chosen = list(_layers(base))
    return bool(chosen) and memory.free_ram() > 2 * sum(w.numel() for w in chosen)


def _has_vnni() -> bool:
    return bool(torch.cpu._is_vnni_supported())


@contextmanager
def in_8_bits(base: BaseModel) -> Iterator[None]:
    """Inside, `linear` multiplies with the model's wide float32 layers in 8 bits, the head's not.

    For what runs in this thread, and without a gradient.
    """
    with torch.inference_mode():
        token = _weights.set({id(weight): Int8.of(weight) for weight in _layers(base)})
    try:
        yield
    finally:
        _weights.reset(token)


def _layers(base: BaseModel) -> Iterator[Tensor]:
    head = base.model.get_output_embeddings()
    for layer in base.model.modules():
        if type(layer) is not nn.Linear or layer is head:
            continue
        weight = layer.weight
        if weight.dtype == torch.float32 and min(weight.shape) >= NARROWEST:
            yield weight

"""The beginning that all prompts of a decoder-only model share, computed once a candidate.

An instruction or a chat template stands before every example. Its keys and values depend on the
candidate alone, so P rows compute them, and the P·B rows of the examples only what comes after:
P·(k + B·S) tokens instead of P·B·(k + S). Generation does such a thing over time; here it is done
over the batch (Juravsky et al. 2024, "Hydragen", arXiv 2402.05099, share prefixes in this way).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED, Batch
from composer.engine.compose import Factors
from composer.engine.population import attached

# Sharing is worth a second, smaller forward when it spares this share of the tokens.
PAYS = 0.1


@dataclass(frozen=True)
class Split:
    """A batch as k shared tokens, ids (k,), and what each of B examples has after them, (B, S)."""

    prefix: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def position_ids(self) -> Tensor:
        return len(self.prefix) + (self.attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def pays(batch: Batch) -> bool:
    B, T = batch.input_ids.shape
    return batch.prefix * (B - 1) >= PAYS * B * T


def new_cache(base: BaseModel) -> Any | None:
    """An empty cache, or None where the model's kind of memory is not one that we know."""
    accepts = inspect.signature(base.model.forward).parameters
    if base.is_encoder_decoder or not {"past_key_values", "position_ids"} <= set(accepts):
        return None
    if getattr(base.config, "num_kv_shared_layers", 0):
        return None  # layers that read other layers' keys
    cache: Any = DynamicCache(config=base.model.config)  # type: ignore[no-untyped-call]
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return cache if cache.layers and all(type(each) in known for each in cache.layers) else None


def logits(
    base: BaseModel, factors: Factors | None, batch: Batch, cache: Any
) -> tuple[Tensor, Tensor]:
    """Logits (P·B, L, V) and the labels (P·B, L) that they predict, as without sharing.

    cache is a new one of `new_cache`.
    """
    P, B = 1 if factors is None else factors.candidates, len(batch)
    parts = split(batch, _side(batch, cache))
    accepts = inspect.signature(base.model.forward).parameters
    with _attached(base, factors, P):
        # The logits of the prefix are not wanted, but one of them cannot be avoided.
        one: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}
        base.model(
            input_ids=parts.prefix.repeat(P, 1), past_key_values=cache, use_cache=True, **one
        )
    for layer in cache.layers:
        _hand_out(layer, B)
    labels = parts.labels.repeat(P, 1)
    before = torch.ones(B, len(parts.prefix), dtype=torch.long, device=labels.device)
    options: dict[str, Any] = {}
    keep = labels.shape[1]
    if "logits_to_keep" in accepts:
        first = int((parts.labels != IGNORED).any(dim=0).nonzero()[0])
        options["logits_to_keep"] = keep = keep - first + 1
    with _attached(base, factors, P * B):
        found = base.model(
            input_ids=parts.input_ids.repeat(P, 1),
            attention_mask=torch.cat([before, parts.attention_mask], dim=1).repeat(P, 1),
            position_ids=parts.position_ids.repeat(P, 1),
            past_key_values=cache,
            use_cache=True,
            **options,
        ).logits
    # Position t predicts token t + 1.
    return found[:, :-1], labels[:, -keep:][:, 1:]


def split(batch: Batch, side: str) -> Split:
    """Cut the shared tokens off, and pad what is left on one side. No row has holes."""
    mask = batch.attention_mask.bool()
    k, (B, T) = batch.prefix, mask.shape
    lengths = mask.sum(dim=1, keepdim=True) - k
    starts = mask.int().argmax(dim=1, keepdim=True) + k
    places = torch.arange(T - k, device=mask.device).expand(B, -1)
    if side == "left":
        places = places - (T - k - lengths)
    real = (places >= 0) & (places < lengths)
    index = (starts + places).clamp(min=0, max=T - 1)
    first = int(starts[0]) - k
    return Split(
        prefix=batch.input_ids[0, first : first + k],
        input_ids=torch.where(real, batch.input_ids.gather(1, index), 0),
        attention_mask=real.long(),
        labels=torch.where(real, batch.labels.gather(1, index), IGNORED),
    )


def _side(batch: Batch, cache: Any) -> str:
    """Padding stands between the prefix and the rest when it is on the left, so that answers end
    in one column and few logits are computed. A sliding window counts it as tokens; there it is
    put at the end, unless the window is wider than everything."""
    T = batch.input_ids.shape[1]
    windows = [each.sliding_window for each in cache.layers if each.is_sliding]
    return "right" if any(window < T for window in windows) else "left"


@contextmanager
def _attached(base: BaseModel, factors: Factors | None, rows: int) -> Iterator[None]:
    if factors is None:
        yield
        return
    with attached(base, factors, rows):
        yield


def _hand_out(layer: Any, examples: int) -> None:
    """Give the prefix's keys and values of P candidates to B examples each.

    Nothing that comes after is kept: there is only one more forward, and P·B copies of the prefix
    in every layer would be what fills the memory.
    """
    kept: tuple[Tensor, Tensor] = (layer.keys, layer.values)

    def update(keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """(P·B, heads, S, D) -> (P·B, heads, k + S, D); row p·B + b is candidate p."""
        return tuple(
            torch.cat([before.repeat_interleave(examples, dim=0), new], dim=-2)
            for before, new in zip(kept, (keys, values), strict=True)
        )

    layer.update = update

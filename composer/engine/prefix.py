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
from composer.engine.head import only, predicting
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
        return len(self.prefix) + self.attention_mask.cumsum(dim=1) - 1


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
    """Logits (P, n, V) where the n labels of a candidate are predicted, or of every position,
    (P·B, S, V); and what each of P·B rows predicts at each of S positions, IGNORED for nothing.

    cache is a new one of `new_cache`.
    """
    P, B = 1 if factors is None else factors.candidates, len(batch)
    parts = split(batch)
    shared = parts.prefix.repeat(P, 1)
    last = torch.arange(shared.shape[1], device=shared.device) == shared.shape[1] - 1
    # The logits of the prefix are not wanted, but one of them cannot be avoided.
    with _attached(base, factors, P), only(base.model, last.expand_as(shared), P):
        base.model(input_ids=shared, past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        _hand_out(layer, B)
    before = parts.attention_mask.new_ones(B, shared.shape[1])
    wanted = predicting(parts.labels.repeat(P, 1))
    with _attached(base, factors, P * B), only(base.model, wanted != IGNORED, P):
        found = base.model(
            input_ids=parts.input_ids.repeat(P, 1),
            attention_mask=torch.cat([before, parts.attention_mask], dim=1).repeat(P, 1),
            position_ids=parts.position_ids.repeat(P, 1),
            past_key_values=cache,
            use_cache=True,
        )
    return found.logits, wanted


def split(batch: Batch) -> Split:
    """Cut the shared tokens off, and pad what is left on the right: padding between a prefix and
    the rest would count as tokens in a sliding window. No row of a batch has holes."""
    mask = batch.attention_mask.bool()
    k, (B, T) = batch.prefix, mask.shape
    lengths = mask.sum(dim=1, keepdim=True) - k
    starts = mask.int().argmax(dim=1, keepdim=True) + k
    places = torch.arange(T - k, device=mask.device).expand(B, -1)
    real = places < lengths
    index = (starts + places).clamp(max=T - 1)
    first = int(starts[0]) - k
    return Split(
        prefix=batch.input_ids[0, first : first + k],
        input_ids=torch.where(real, batch.input_ids.gather(1, index), 0),
        attention_mask=real.long(),
        labels=torch.where(real, batch.labels.gather(1, index), IGNORED),
    )


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

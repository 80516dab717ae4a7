"""What a batch needs for the losses of any candidates, prepared once: the path is chosen here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from composer.engine import prefix, t5
from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED, Batch
from composer.engine.compose import Factors
from composer.engine.head import only, predicting
from composer.engine.linear import by_onednn
from composer.engine.packing import buckets, trimmed
from composer.engine.population import attached

# What one more forward costs, in tokens that would have been computed in its time.
OVERHEAD = {"cpu": 16, "cuda": 2048}


class Prepared:
    """B examples, ready to be measured: `losses` as often as wanted, with what no candidate changes
    computed once. The base model must stay as it is meanwhile."""

    def __init__(self, base: BaseModel, batch: Batch) -> None:
        self.base = base
        self.batch = batch
        self._fast = t5.prepare(base, batch)
        self._parts: list[tuple[list[int], Batch]] | None = None

    def losses(self, factors: Factors | None) -> Tensor:
        """-log p(answer) of each candidate on each example, (P, B) in float64; factors None is the
        base model alone, with P = 1. With a gradient where torch keeps one."""
        if self._is_fast(factors):
            return self._fast.losses(factors)  # type: ignore[union-attr]
        return self._in_order([_losses(self.base, factors, some) for some in self._some()])

    def answers(self, factors: Factors | None) -> tuple[Tensor, Tensor]:
        """The losses, and whether greedy writing would give exactly the answer's tokens, both
        (P, B): it does where the likeliest token is the label's at every place, for each label is
        then what is written before the next."""
        if self._is_fast(factors):
            P = factors.candidates if factors is not None else 1
            exact = torch.ones(P, len(self.batch), dtype=torch.bool)
            return self._fast.answers(factors, exact), exact  # type: ignore[union-attr]
        found = [_answers(self.base, factors, some) for some in self._some()]
        return (
            self._in_order([losses for losses, _ in found]),
            self._in_order([exact for _, exact in found]),
        )

    def _is_fast(self, factors: Factors | None) -> bool:
        fast = self._fast
        return fast is not None and not torch.is_grad_enabled() and fast.knows(factors)

    def _some(self) -> list[Batch]:
        """The examples, those of similar length together."""
        if self._parts is None:
            with torch.inference_mode(False):  # they may be needed for a gradient later
                self._parts = list(_by_length(self.base, self.batch))
        return [some for _, some in self._parts]

    def _in_order(self, found: list[Tensor]) -> Tensor:
        assert self._parts is not None
        order = [place for places, _ in self._parts for place in places]
        back = torch.tensor(order, device=found[0].device).argsort()
        return torch.cat(found, dim=1)[:, back]


def prepare(base: BaseModel, batch: Batch) -> Prepared:
    return Prepared(base, batch)


def _by_length(base: BaseModel, batch: Batch) -> Iterator[tuple[list[int], Batch]]:
    """Examples of similar length together, where that saves more padding than forwards cost. Where
    they share a prefix, what they have after it counts, and each forward computes it once."""
    lengths = [int(each) for each in batch.attention_mask.sum(dim=1)]
    overhead = OVERHEAD["cuda" if base.device.type == "cuda" else "cpu"]
    if prefix.pays(batch):
        lengths = [length - batch.prefix for length in lengths]
        overhead += batch.prefix
    for chosen in buckets(lengths, overhead):
        yield chosen, trimmed(batch, chosen)


def _losses(base: BaseModel, factors: Factors | None, batch: Batch) -> Tensor:
    """(P, B): the model's own forward, over P·B rows."""
    logits, targets, row = _at_labels(base, factors, batch)
    return _summed(_of_tokens(logits, targets), row, factors, batch)


def _answers(base: BaseModel, factors: Factors | None, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same, and where every token is the likeliest, (P, B)."""
    logits, targets, row = _at_labels(base, factors, batch)
    wrong = (logits.argmax(dim=1) != targets).double()
    losses = _summed(_of_tokens(logits, targets), row, factors, batch)
    return losses, _summed(wrong, row, factors, batch) == 0


def _of_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return (torch.logsumexp(logits, dim=1) - chosen).double()


def _summed(tokens: Tensor, row: Tensor, factors: Factors | None, batch: Batch) -> Tensor:
    """What each label's token has, added up by example: (P, B)."""
    P = factors.candidates if factors is not None else 1
    return tokens.new_zeros(P * len(batch)).index_add(0, row, tokens).view(P, len(batch))


def _at_labels(
    base: BaseModel, factors: Factors | None, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, V) where n labels are predicted, the labels, and the row of P·B each is in."""
    P = factors.candidates if factors is not None else 1
    rows = P * len(batch)
    cache = prefix.new_cache(base) if prefix.pays(batch) else None
    with by_onednn(base.model):
        if cache is not None:
            logits, wanted = prefix.logits(base, factors, batch, cache)
        else:
            with nullcontext() if factors is None else attached(base, factors, rows):
                logits, wanted = _logits(base, batch, P)
    real = (wanted != IGNORED).to(logits.device)
    wanted = wanted.to(logits.device)
    if logits.shape[:2] == wanted.shape:  # the head has seen every position
        logits = logits[real]
    row = torch.arange(rows, device=logits.device)[:, None].expand_as(wanted)[real]
    return logits.flatten(0, -2).float(), wanted[real], row


def _logits(base: BaseModel, batch: Batch, P: int) -> tuple[Tensor, Tensor]:
    """Logits (P, n, V) where the n labels of a candidate are predicted, or of every position,
    (P·B, T, V); and what each of P·B rows predicts at each of T positions, IGNORED for nothing."""
    ids, mask, labels = (
        part.repeat(P, 1) for part in (batch.input_ids, batch.attention_mask, batch.labels)
    )
    wanted = labels if batch.is_encoder_decoder else predicting(labels)
    with only(base.model, wanted != IGNORED, P):
        return base.model(**_inputs(base, ids, mask, labels), use_cache=False).logits, wanted


def _inputs(base: BaseModel, ids: Tensor, mask: Tensor, labels: Tensor) -> dict[str, Any]:
    if base.is_encoder_decoder:
        start = base.model.prepare_decoder_input_ids_from_labels(labels=labels)
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": start}
    options = {"input_ids": ids, "attention_mask": mask}
    if "position_ids" in inspect.signature(base.model.forward).parameters:
        options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return options

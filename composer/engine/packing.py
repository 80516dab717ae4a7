"""Examples by length: real tokens one after the other, or rows that need little padding."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from composer.engine.batch import IGNORED, Batch


@dataclass(frozen=True)
class Group:
    """`count` examples of exactly `length` tokens, packed from token `start` on; the first of them
    is number `first` in the packed order."""

    first: int
    count: int
    start: int
    length: int

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.start + self.count * self.length)

    @property
    def examples(self) -> slice:
        return slice(self.first, self.first + self.count)


@dataclass(frozen=True)
class Packed:
    """The real tokens of B prompts, the shortest first, without padding: ids (S,).

    order (B,) says which example stands at each place.
    """

    ids: Tensor
    order: Tensor
    groups: tuple[Group, ...]


def pack(input_ids: Tensor, attention_mask: Tensor) -> Packed | None:
    """None where a mask has holes: tokens would move towards each other."""
    mask = attention_mask.bool()
    lengths = mask.sum(dim=1)
    if not _without_holes(mask, lengths) or not bool((lengths > 0).all()):
        return None
    order = torch.argsort(lengths, stable=True)
    groups: list[Group] = []
    start = 0
    found, counts = torch.unique(lengths, return_counts=True)
    for length, count in zip(found.tolist(), counts.tolist(), strict=True):
        first = groups[-1].first + groups[-1].count if groups else 0
        groups.append(Group(first=first, count=count, start=start, length=length))
        start += count * length
    return Packed(ids=input_ids[order][mask[order]], order=order, groups=tuple(groups))


def _without_holes(mask: Tensor, lengths: Tensor) -> bool:
    places = torch.arange(mask.shape[1], device=mask.device)
    first = torch.where(mask, places, mask.shape[1]).amin(dim=1)
    last = torch.where(mask, places, -1).amax(dim=1)
    return bool((last - first + 1 == lengths).all())


def buckets(lengths: list[int], overhead: float) -> list[list[int]]:
    """Examples in groups of similar length, so that Σ (size·longest + overhead) is least.

    overhead is what one more forward costs, in tokens. Exact, by going through the sorted lengths:
    cost[j] = min_i cost[i] + (j - i)·length[j - 1] + overhead.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    cost = [0.0]
    cut = [0]
    for j in range(1, len(order) + 1):
        longest = lengths[order[j - 1]]
        options = [cost[i] + (j - i) * longest + overhead for i in range(j)]
        best = min(range(j), key=options.__getitem__)
        cost.append(options[best])
        cut.append(best)
    found: list[list[int]] = []
    end = len(order)
    while end:
        found.append(order[cut[end] : end])
        end = cut[end]
    return found[::-1]


def trimmed(batch: Batch, chosen: list[int]) -> Batch:
    """Some examples, without the columns in which all of them have padding."""
    rows = torch.tensor(chosen, device=batch.input_ids.device)
    ids, mask, labels = (
        part[rows] for part in (batch.input_ids, batch.attention_mask, batch.labels)
    )
    kept = mask.bool().any(dim=0)
    answers = (labels != IGNORED).any(dim=0)
    if batch.is_encoder_decoder:
        last = int(answers.nonzero()[-1]) + 1 if bool(answers.any()) else 1
        labels = labels[:, :last]
    else:
        labels = labels[:, kept]
    return replace(batch, input_ids=ids[:, kept], attention_mask=mask[:, kept], labels=labels)

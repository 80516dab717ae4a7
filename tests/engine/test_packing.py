from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from composer.engine.batch import IGNORED, Batch
from composer.engine.packing import buckets, pack, trimmed

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def padded(lengths: list[int], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(lengths) + 2
    ids, mask = torch.zeros(2, len(lengths), width, dtype=torch.long)
    for b, length in enumerate(lengths):
        start = 0 if side == "right" else width - length
        ids[b, start : start + length] = 10 * b + torch.arange(1, length + 1)
        mask[b, start : start + length] = 1
    return ids, mask


@given(LENGTHS, st.sampled_from(["left", "right"]))
def test_it_packs_every_real_token_and_nothing_else(lengths: list[int], side: str) -> None:
    ids, mask = padded(lengths, side)
    packed = pack(ids, mask)
    assert packed is not None
    assert len(packed.ids) == sum(lengths)
    for group in packed.groups:
        rows = packed.ids[group.tokens].view(group.count, group.length)
        for place, row in zip(packed.order[group.examples].tolist(), rows, strict=True):
            assert row.tolist() == ids[place][mask[place].bool()].tolist()
    assert sorted(packed.order.tolist()) == list(range(len(lengths)))


def test_it_does_not_close_holes() -> None:
    ids, mask = padded([4, 4], "right")
    mask[1, 1] = 0
    assert pack(ids, mask) is None
    mask[1] = 0
    assert pack(ids, mask) is None


@given(LENGTHS, st.integers(0, 20))
def test_no_other_cut_of_the_sorted_lengths_costs_less(lengths: list[int], overhead: int) -> None:
    def cost(groups: list[list[int]]) -> int:
        return sum(len(g) * max(lengths[i] for i in g) + overhead for g in groups)

    found = buckets(lengths, overhead)
    assert sorted(i for group in found for i in group) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for cuts in range(1 << (len(lengths) - 1)):
        groups = [[order[0]]]
        for place, i in enumerate(order[1:]):
            if cuts >> place & 1:
                groups.append([])
            groups[-1].append(i)
        assert cost(found) <= cost(groups)


def test_columns_of_padding_go_on_both_sides() -> None:
    ids, mask = padded([3, 6, 4], "left")
    labels = torch.where(mask.bool(), ids, IGNORED)
    some = trimmed(Batch(ids, mask, labels, False, prefix=1), [2, 0])
    assert some.input_ids.tolist() == [[21, 22, 23, 24], [0, 1, 2, 3]]
    assert some.labels.tolist() == [[21, 22, 23, 24], [IGNORED, 1, 2, 3]]
    assert some.attention_mask.tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert some.prefix == 1

"""Stacks of random modules that no file holds: any ranks, on any linear layers."""

from __future__ import annotations

import torch

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.stack import Stack, of_layers

EVERY = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", "lm_head")


def make_stack(base: BaseModel, ranks: tuple[int, ...], targets: tuple[str, ...] = EVERY) -> Stack:
    """One module a rank, on every layer that ends in one of the targets."""
    sizes = {
        name: size
        for name, _ in base.model.named_modules()
        if name.rpartition(".")[2] in targets and (size := stacks.layer_size(base, name))
    }
    assert sizes
    places = of_layers(sizes, max(ranks))
    end = max(place.b + place.R * place.d_out for place in places.values())
    rows = torch.zeros(len(ranks), end)
    generator = torch.Generator().manual_seed(1)
    for place in places.values():
        for n, r in enumerate(ranks):
            A, B = place.A(rows)[n, :r], place.B(rows)[n, :, :r]
            A.copy_(torch.randn(A.shape, generator=generator) * 0.1)
            B.copy_(torch.randn(B.shape, generator=generator) * 0.1)
    return Stack(
        rows=rows, places=places, ranks=dict.fromkeys(places, ranks),
        names=tuple(str(n) for n in range(len(ranks))), target_modules=targets,
    )  # fmt: skip

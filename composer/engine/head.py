"""Logits where labels are: a vocabulary times every token of a prompt is what takes most memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from composer.engine.batch import IGNORED


def predicting(labels: Tensor) -> Tensor:
    """Position t predicts token t + 1."""
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)


@contextmanager
def only(model: Any, real: Tensor, P: int) -> Iterator[None]:
    """Inside, the model's head sees only these positions, real (P·B, T), as (P, n, D): logits are
    what takes most memory of all, and most of them stand for the prompt.

    The head is what `get_output_embeddings` names; where it reads something of another shape, it is
    left alone.
    """
    head = model.get_output_embeddings()

    def choose(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0]
        if not isinstance(x, Tensor) or x.shape[:-1] != real.shape:
            return args
        return x[real.to(x.device)].view(P, -1, x.shape[-1]), *args[1:]

    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()

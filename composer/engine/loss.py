"""How unlikely candidates find the answers: the one function that everything is measured with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from composer.engine import prefix
from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.batch import IGNORED, Batch
from composer.engine.compose import Factors
from composer.engine.errors import BadExamples
from composer.engine.population import attached

# Tokens and logits of one forward: what keeps memory bounded.
TOKENS = {"cpu": 4096, "cuda": 65536}
LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28}


@dataclass(frozen=True)
class Chunk:
    """How many candidates and examples go into one forward. It changes the last bits of a loss,
    so a resumed search must be given the chunk it began with."""

    candidates: int
    examples: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def answer_losses(base: BaseModel, factors: Factors | None, batch: Batch) -> Tensor:
    """-log p(answer) of each candidate on each example, (P, B) in float64; factors None is the
    base model alone, with P = 1."""
    P = factors.candidates if factors is not None else 1
    rows = P * len(batch)
    cache = prefix.new_cache(base) if prefix.pays(batch) else None
    if cache is not None:
        logits, labels = prefix.logits(base, factors, batch, cache)
    else:
        with nullcontext() if factors is None else attached(base, factors, rows):
            logits, labels = _forward(
                base,
                batch.input_ids.repeat(P, 1),
                batch.attention_mask.repeat(P, 1),
                batch.labels.repeat(P, 1),
            )
    real = labels != IGNORED
    losses = F.cross_entropy(logits[real].float(), labels[real], reduction="none").double()
    row = torch.arange(rows, device=labels.device)[:, None].expand_as(labels)[real]
    return (
        torch.zeros(rows, dtype=torch.float64, device=labels.device)
        .index_add(0, row, losses)
        .view(P, len(batch))
    )


def _forward(base: BaseModel, ids: Tensor, mask: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (rows, L, V) and the labels (rows, L) they predict."""
    if base.is_encoder_decoder:
        decoder_ids = base.model.prepare_decoder_input_ids_from_labels(labels=labels)
        logits = base.model(
            input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False
        ).logits
        return logits, labels
    # Position t predicts token t + 1; everything before the first answer is not needed.
    accepts = inspect.signature(base.model.forward).parameters
    keep = ids.shape[1]
    options: dict[str, Any] = {}
    if "position_ids" in accepts:
        options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    if "logits_to_keep" in accepts:
        answers = (labels != IGNORED).any(dim=0).nonzero()
        keep = min(keep, ids.shape[1] - int(answers[0]) + 1)
        options["logits_to_keep"] = keep
    logits = base.model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    return logits[:, :-1], labels[:, -keep:][:, 1:]


def check_length(base: BaseModel, batch: Batch) -> None:
    """A decoder-only model reads prompt and answer in one, and has places for so many tokens."""
    if base.max_tokens is None:
        return
    limit = base.max_tokens + (0 if batch.is_encoder_decoder else ANSWER_TOKENS)
    width = int(batch.input_ids.shape[1])
    if width > limit:
        what = "prompt" if batch.is_encoder_decoder else "prompt and answer together"
        raise BadExamples(
            f"An example has {width} tokens ({what}); the model reads at most {limit}. Shorten it."
        )


def default_chunk(base: BaseModel, batch: Batch) -> Chunk:
    """As many candidates at once as keep a forward within TOKENS and LOGITS."""
    kind = "cuda" if base.device.type == "cuda" else "cpu"
    answer = int(batch.answer_tokens.max()) if len(batch) else 1
    tokens = batch.input_ids.shape[1] + (answer if batch.is_encoder_decoder else 0)
    vocabulary = int(getattr(base.config, "vocab_size", 1))
    rows = max(1, min(TOKENS[kind] // tokens, LOGITS[kind] // (answer * vocabulary)))
    examples = max(1, min(len(batch), rows))
    return Chunk(candidates=max(1, rows // examples), examples=examples)


def parts(batch: Batch, size: int) -> Iterator[tuple[int, Batch]]:
    """Rows of at most `size` examples, each with the number of its first."""
    for start in range(0, len(batch), size):
        yield start, batch.rows(start, start + size)

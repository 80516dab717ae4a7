"""How unlikely candidates find the answers: the one function that everything is measured with."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.batch import Batch
from composer.engine.chunk import Chunk, OutOfMemory, default_chunk
from composer.engine.compose import Factors
from composer.engine.errors import BadExamples
from composer.engine.forward import prepare

__all__ = [
    "Chunk",
    "OutOfMemory",
    "answer_losses",
    "answers",
    "check_length",
    "default_chunk",
    "parts",
]


def answer_losses(base: BaseModel, factors: Factors | None, batch: Batch) -> Tensor:
    """-log p(answer) of each candidate on each example, (P, B) in float64; factors None is the
    base model alone, with P = 1. Who asks again and again of one batch keeps what `prepare` gives.
    """
    return prepare(base, batch).losses(factors)


def answers(base: BaseModel, factors: Factors | None, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same, and whether greedy writing would give exactly the answer, both (P, B)."""
    return prepare(base, batch).answers(factors)


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


def parts(batch: Batch, size: int) -> Iterator[tuple[int, Batch]]:
    """Rows of at most `size` examples, each with the number of its first."""
    for start in range(0, len(batch), size):
        yield start, batch.rows(start, start + size)

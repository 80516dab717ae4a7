"""How unlikely candidates find the answers: the one function that everything is measured with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from torch import Tensor

from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.batch import Batch
from composer.engine.compose import Factors
from composer.engine.errors import BadExamples
from composer.engine.forward import prepare

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
    base model alone, with P = 1. Who asks again and again of one batch keeps what `prepare` gives.
    """
    return prepare(base, batch).losses(factors)


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

"""How much goes into one forward: chosen from free memory once, halved when it was too much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from composer.engine import memory, t5
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.errors import CommonsError

# A forward gets this share of what is free; the rest is for factors and for other processes.
SHARE = {"cpu": 0.3, "cuda": 0.7}
# More tokens or logits at a time than this bring nothing but waiting for memory. The T5 path cuts
# its forward into pieces by itself, and mixes the better the more candidates there are.
TOKENS = {"cpu": 4096, "cuda": 65536, "t5": 16384}
LOGITS = {"cpu": 1 << 24, "cuda": 1 << 28, "t5": 1 << 28}


@dataclass(frozen=True)
class Chunk:
    """How many candidates and examples go into one forward. It changes the last bits of a loss,
    so a resumed search must be given the chunk it began with."""

    candidates: int
    examples: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Chunk:
        return cls(int(document["candidates"]), int(document["examples"]))

    def halved(self) -> Chunk | None:
        """Fewer candidates, then fewer examples; None where there is nothing left to halve."""
        if self.candidates > 1:
            return Chunk(self.candidates // 2, self.examples)
        if self.examples > 1:
            return Chunk(1, self.examples // 2)
        return None


class OutOfMemory(CommonsError):
    """A forward did not fit; `smaller` is the chunk to start again with, or None."""

    code = "out_of_memory"

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.smaller = chunk.halved()
        tried = f"{chunk.candidates} candidates on {chunk.examples} examples at a time"
        if self.smaller is None:
            message = (
                "The memory is not enough for one candidate on one example. Choose shorter "
                "examples, fewer modules or a smaller base model."
            )
        else:
            message = (
                f"The memory was not enough for {tried}. Start again with "
                f"{self.smaller.candidates} on {self.smaller.examples}."
            )
        super().__init__(message)


@contextmanager
def bounded(chunk: Chunk) -> Iterator[None]:
    """Inside, running out of memory is OutOfMemory of this chunk."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(chunk) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's words on the CPU
            raise
        raise OutOfMemory(chunk) from error


def default_chunk(base: BaseModel, batch: Batch) -> Chunk:
    """As many candidates at once as fit into free memory, and no more than bring anything."""
    kind = "cuda" if base.device.type == "cuda" else "cpu"
    answer = int(batch.answer_tokens.max()) if len(batch) else 1
    T = int(batch.input_ids.shape[1])
    tokens = T + (answer if batch.is_encoder_decoder else 0)
    shape = memory.Shape.of(base.config.to_dict())
    each = shape.forward(tokens, answer, _bytes_per_number(base))
    path = "t5" if t5.recognise(base) else kind
    rows = min(
        TOKENS[path] // tokens,
        LOGITS[path] // (answer * shape.vocabulary),
        int(free(base.device) * SHARE[kind]) // each,
    )
    # A gradient, which is of one candidate, goes the generic way.
    examples = max(1, min(len(batch), rows, TOKENS[kind] // tokens))
    return Chunk(candidates=max(1, rows // examples), examples=examples)


def free(device: torch.device) -> int:
    """Bytes that a forward on this device can have."""
    if device.type != "cuda":
        return memory.free_ram()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _bytes_per_number(base: BaseModel) -> int:
    dtype = getattr(base.model, "dtype", torch.float32)
    return int(torch.empty((), dtype=dtype).element_size()) if dtype.is_floating_point else 4

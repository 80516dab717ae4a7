"""What the composed model answers, how good that is, and what it is to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.batch import encode
from composer.engine.chunk import Chunk
from composer.engine.compare import wilson
from composer.engine.compose import compose
from composer.engine.contenders import (
    Contender,
    best_single,
    best_single_scaled,
    randomised_stack,
    size_of,
    uniform,
    uniform_scaled,
    uniform_weights,
)
from composer.engine.examples import Example
from composer.engine.fresh_lora import FreshRecipe, fresh_lora
from composer.engine.generate import BATCH_SIZE, answer_room, choose, generate
from composer.engine.loss import answer_losses, check_length, parts
from composer.engine.prompt import Template, normalise_answer
from composer.engine.stack import Stack

__all__ = [
    "Contender",
    "FreshRecipe",
    "Score",
    "answer_room",
    "best_single",
    "best_single_scaled",
    "fresh_lora",
    "losses",
    "predict",
    "predict_each",
    "randomised_stack",
    "score",
    "size_of",
    "uniform",
    "uniform_scaled",
    "uniform_weights",
]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """Exact matches after normalise_answer, with the 95% Wilson interval."""

    correct: int
    total: int
    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, int | float]:
        return dict(vars(self))


def predict(
    base: BaseModel,
    stack: Stack | None,
    weights: Sequence[float] | Array | None,
    inputs: Sequence[str],
    template: Template,
    combination: str = "sum",
    *,
    blocks: str = "all",
    answer_options: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[str]:
    """Answers to inputs; weights None is the base model alone.

    Without options: greedy generation. With options: the likeliest of them.
    """
    (answers,) = predict_each(
        base,
        stack,
        [weights],
        inputs,
        template,
        combination,
        blocks=blocks,
        answer_options=answer_options,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
    )
    return answers


def predict_each(
    base: BaseModel,
    stack: Stack | None,
    weights: Sequence[Sequence[float] | Array | None],
    inputs: Sequence[str],
    template: Template,
    combination: str = "sum",
    *,
    blocks: str = "all",
    answer_options: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[list[str]]:
    """What each candidate answers, all in one batch; None among them is the base model.

    weights: P times (N,), or (K·N,) with K blocks, or None -> P lists of answers
    """
    factors = None
    given = [np.asarray(each, dtype=np.float64) for each in weights if each is not None]
    if stack is not None and given:
        zero = np.zeros_like(given[0])
        rows = [zero if each is None else np.asarray(each, np.float64) for each in weights]
        with torch.inference_mode():
            factors = compose(np.stack(rows), stack, combination, blocks)
    if answer_options:
        answers = choose(base, factors, inputs, template, answer_options, batch_size=batch_size)
    else:
        answers = generate(
            base,
            factors,
            inputs,
            template,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
        )
    return answers if factors is not None else answers * len(weights)


def losses(
    base: BaseModel,
    stack: Stack | None,
    weights: Sequence[float] | Array | None,
    examples: Sequence[Example],
    template: Template,
    combination: str = "sum",
    *,
    blocks: str = "all",
    chunk: Chunk | None = None,
) -> Array:
    """(B,): the mean cross-entropy of each answer's tokens; weights None is the base model."""
    batch = encode(
        examples, template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
    ).to(base.device)
    check_length(base, batch)
    factors = None
    found = []
    with torch.inference_mode():
        if stack is not None and weights is not None:
            factors = compose(np.asarray(weights)[None], stack, combination, blocks)
        for _, rows in parts(batch, chunk.examples if chunk else len(batch)):
            found.append(answer_losses(base, factors, rows)[0].cpu().numpy())
    tokens: Array = batch.answer_tokens.cpu().numpy().astype(np.float64)
    return np.concatenate(found) / tokens


def score(predictions: Sequence[str], targets: Sequence[str]) -> Score:
    """Exact match, with Wilson's interval."""
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    n = len(targets)
    correct = sum(
        normalise_answer(a) == normalise_answer(b)
        for a, b in zip(predictions, targets, strict=True)
    )
    found = wilson(correct, n)
    return Score(correct, n, correct / n if n else 0.0, found.low, found.high)

"""What the composed model answers, how good that is, and what it is to be compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.compose import compose
from composer.engine.contenders import (
    Contender,
    best_single,
    randomised_stack,
    uniform,
    uniform_weights,
)
from composer.engine.fresh_lora import FreshRecipe, fresh_lora
from composer.engine.generate import BATCH_SIZE, answer_room, choose, generate
from composer.engine.prompt import Template, normalise_answer
from composer.engine.stack import Stack

__all__ = [
    "Contender",
    "FreshRecipe",
    "Score",
    "answer_room",
    "best_single",
    "fresh_lora",
    "predict",
    "predict_each",
    "randomised_stack",
    "score",
    "uniform",
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


def score(predictions: Sequence[str], targets: Sequence[str]) -> Score:
    """Exact match. The interval: Wilson 1927, z = 1.96,
    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")
    n = len(targets)
    correct = sum(
        normalise_answer(a) == normalise_answer(b)
        for a, b in zip(predictions, targets, strict=True)
    )
    if n == 0:
        return Score(correct=0, total=0, value=0.0, low=0.0, high=1.0)
    z, p = 1.959963984540054, correct / n
    middle = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    # At 0 and at n correct the formula gives 0 and 1 but for rounding.
    low, high = (0.0 if correct == 0 else low), (1.0 if correct == n else high)
    return Score(correct=correct, total=n, value=p, low=low, high=high)

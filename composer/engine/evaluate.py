"""What the composed model answers, how good that is, and what it is to be compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.batch import encode, encode_prompts, pad_id
from composer.engine.compose import Factors, compose
from composer.engine.contenders import (
    Contender,
    best_single,
    randomised_stack,
    uniform,
    uniform_weights,
)
from composer.engine.errors import BadExamples
from composer.engine.examples import Example
from composer.engine.fresh_lora import FreshRecipe, fresh_lora
from composer.engine.loss import answer_losses, check_length
from composer.engine.population import attached
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
    answer_options: Sequence[str] | None = None,
    batch_size: int = 32,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[str]:
    """Answers to inputs; weights None is the base model alone.

    Without options: greedy generation. With options: the one of highest log p(option | input),
    the end of the text included, so that lengths need no correction.
    """
    factors = None
    if stack is not None and weights is not None:
        with torch.inference_mode():
            factors = compose(np.asarray(weights, dtype=np.float64)[None], stack, combination)
    answers: list[str] = []
    if answer_options:
        batch_size = max(1, batch_size // len(answer_options))
    for start in range(0, len(inputs), batch_size):
        some = inputs[start : start + batch_size]
        if answer_options:
            answers += _choose(base, factors, some, template, answer_options)
        else:
            answers += _generate(base, factors, some, template, max_new_tokens)
    return answers


def answer_room(base: BaseModel, examples: Sequence[Example]) -> int:
    """max_new_tokens that let each of these targets be written to its end."""
    longest = max((len(base.tokenizer(each.target).input_ids) for each in examples), default=0)
    return max(ANSWER_TOKENS, longest)


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


def _generate(
    base: BaseModel,
    factors: Factors | None,
    inputs: Sequence[str],
    template: Template,
    max_new_tokens: int,
) -> list[str]:
    ids, mask = encode_prompts(
        inputs, template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
    )
    if base.max_tokens is not None and ids.shape[1] > base.max_tokens:
        raise BadExamples(
            f"The input has {ids.shape[1]} tokens, with the template; the model reads at most "
            f"{base.max_tokens}. Shorten it.",
            field="input",
        )
    if base.max_tokens is not None and not base.is_encoder_decoder:
        max_new_tokens = min(max_new_tokens, base.max_tokens + ANSWER_TOKENS - ids.shape[1])
    stated: Any = base.model.generation_config
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id(base.tokenizer),
        bos_token_id=stated.bos_token_id,
        eos_token_id=stated.eos_token_id,
        decoder_start_token_id=stated.decoder_start_token_id,
    )
    attach = nullcontext() if factors is None else attached(base, factors, rows=len(inputs))
    with torch.inference_mode(), attach:
        written = base.model.generate(
            input_ids=ids.to(base.device),
            attention_mask=mask.to(base.device),
            generation_config=greedy,
        )
    if not base.is_encoder_decoder:
        written = written[:, ids.shape[1] :]
    texts = base.tokenizer.batch_decode(written, skip_special_tokens=True)
    return [str(text).strip() for text in texts]


def _choose(
    base: BaseModel,
    factors: Factors | None,
    inputs: Sequence[str],
    template: Template,
    options: Sequence[str],
) -> list[str]:
    if not all(option.strip() for option in options):
        raise BadExamples("An answer option is empty. Fill it in or remove it.", field="options")
    pairs = [Example(input=text, target=option) for text in inputs for option in options]
    batch = encode(pairs, template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder).to(
        base.device
    )
    check_length(base, batch)
    with torch.inference_mode():
        losses = answer_losses(base, factors, batch)[0].view(len(inputs), len(options))
    return [options[int(choice)] for choice in losses.argmin(dim=1)]

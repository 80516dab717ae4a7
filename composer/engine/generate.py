"""What a model answers, alone and with adapters: P candidates and B inputs are one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from composer.engine.base_model import ANSWER_TOKENS, BaseModel
from composer.engine.batch import chat_of, encode, encode_prompts, end_of_turn, pad_id
from composer.engine.compose import Factors
from composer.engine.errors import BadExamples
from composer.engine.examples import Example
from composer.engine.loss import answer_losses, check_length
from composer.engine.population import attached
from composer.engine.prompt import Template

# Rows of one batch, all candidates together.
BATCH_SIZE = 32


def generate(
    base: BaseModel,
    factors: Factors | None,
    inputs: Sequence[str],
    template: Template,
    *,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = ANSWER_TOKENS,
) -> list[list[str]]:
    """P lists of answers to the inputs, written greedily: always the likeliest next token.

    factors None is the base model alone, with P = 1; beside others it is a candidate whose weights
    are all zero. Row p·B + b of a batch is candidate p on input b.
    """
    P = 1 if factors is None else factors.candidates
    answers: list[list[str]] = [[] for _ in range(P)]
    size = max(1, batch_size // P)
    for start in range(0, len(inputs), size):
        some = inputs[start : start + size]
        texts = _generate(base, factors, some, template, max_new_tokens)
        for p, column in enumerate(answers):
            column += texts[p * len(some) : (p + 1) * len(some)]
    return answers


def choose(
    base: BaseModel,
    factors: Factors | None,
    inputs: Sequence[str],
    template: Template,
    options: Sequence[str],
    *,
    batch_size: int = BATCH_SIZE,
) -> list[list[str]]:
    """P lists with, for each input, the option of highest log p(option | input), the end of the
    text included, so that lengths need no correction."""
    P = 1 if factors is None else factors.candidates
    chosen: list[list[str]] = [[] for _ in range(P)]
    size = max(1, batch_size // (P * max(1, len(options))))
    for start in range(0, len(inputs), size):
        losses = option_losses(base, factors, inputs[start : start + size], template, options)
        for p, column in enumerate(losses.argmin(dim=2).tolist()):
            chosen[p] += [options[choice] for choice in column]
    return chosen


def option_losses(
    base: BaseModel,
    factors: Factors | None,
    inputs: Sequence[str],
    template: Template,
    options: Sequence[str],
) -> Tensor:
    """-log p(option | input), (P, B, options)."""
    if not all(option.strip() for option in options):
        raise BadExamples("An answer option is empty. Fill it in or remove it.", field="options")
    pairs = [Example(input=text, target=option) for text in inputs for option in options]
    batch = encode(pairs, template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder).to(
        base.device
    )
    check_length(base, batch)
    with torch.inference_mode():
        losses = answer_losses(base, factors, batch)
    return losses.view(-1, len(inputs), len(options))


def answer_room(base: BaseModel, examples: Sequence[Example]) -> int:
    """max_new_tokens that let each of these targets be written to its end."""
    longest = max((len(base.tokenizer(each.target).input_ids) for each in examples), default=0)
    return max(ANSWER_TOKENS, longest)


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
    P = 1 if factors is None else factors.candidates
    attach = nullcontext() if factors is None else attached(base, factors, rows=P * len(inputs))
    with torch.inference_mode(), attach, _greedily(base, template, max_new_tokens) as greedy:
        written = base.model.generate(
            input_ids=ids.repeat(P, 1).to(base.device),
            attention_mask=mask.repeat(P, 1).to(base.device),
            generation_config=greedy,
        )
    if not base.is_encoder_decoder:
        written = written[:, ids.shape[1] :]
    texts = base.tokenizer.batch_decode(written, skip_special_tokens=True)
    return [str(text).strip() for text in texts]


@contextmanager
def _greedily(base: BaseModel, template: Template, max_new_tokens: int) -> Iterator[Any]:
    """The settings of greedy decoding, and what of the model's own belongs to how it writes.

    Released models bring beams, least lengths and penalties, which transformers would fill in
    wherever ours say nothing; so they are put aside.
    """
    stated: Any = base.model.generation_config
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id(base.tokenizer),
        bos_token_id=stated.bos_token_id,
        eos_token_id=_stops(base, template, stated.eos_token_id),
        decoder_start_token_id=stated.decoder_start_token_id,
        forced_bos_token_id=stated.forced_bos_token_id,
    )
    base.model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield greedy
    finally:
        base.model.generation_config = stated


def _stops(base: BaseModel, template: Template, stated: int | list[int] | None) -> list[int] | None:
    """Every token that ends an answer: the model's own, and the one its answers are taught with."""
    chat = chat_of(template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder)
    known = [stated] if isinstance(stated, int) else list(stated or [])
    end = end_of_turn(base.tokenizer, chat)
    return [*known, *([end] if end is not None and end not in known else [])] or None

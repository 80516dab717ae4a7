"""Examples as tensors, for both kinds of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer.engine.examples import Example
from composer.engine.prompt import Template

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """B examples.

    Encoder-decoder: input_ids (B, T) is the prompt, labels (B, L) the answer.
    Decoder-only: input_ids (B, T) is prompt and answer, labels (B, T) the answer where it
    stands and IGNORED elsewhere, so that loss is counted on answer tokens only.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    is_encoder_decoder: bool

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def answer_tokens(self) -> Tensor:
        """Label tokens of each example, (B,). A decoder-only model never predicts position 0."""
        labels = self.labels if self.is_encoder_decoder else self.labels[:, 1:]
        return (labels != IGNORED).sum(dim=1)

    def rows(self, start: int, stop: int) -> Batch:
        return Batch(
            self.input_ids[start:stop],
            self.attention_mask[start:stop],
            self.labels[start:stop],
            self.is_encoder_decoder,
        )

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.labels.to(device),
            self.is_encoder_decoder,
        )


def encode(
    examples: Sequence[Example],
    template: Template,
    tokenizer: Any,
    *,
    is_encoder_decoder: bool = True,
    padding_side: str | None = None,
) -> Batch:
    """Tokenise and pad. Nothing is cut off: `examples.check` says what is too long.

    Padding is on the right for encoder-decoder models and on the left for decoder-only ones,
    where answers then end in one column.
    """
    side = padding_side or ("right" if is_encoder_decoder else "left")
    pad = pad_id(tokenizer)
    if is_encoder_decoder:
        prompts = [_ids(tokenizer, template.render(example.input)) for example in examples]
        answers = [_ids(tokenizer, example.target) for example in examples]
        labels = _padded(answers, IGNORED, "right")
    else:
        pairs = [_prompt_and_answer(example, template, tokenizer) for example in examples]
        prompts = [prompt + answer for prompt, answer in pairs]
        labels = _padded(
            [[IGNORED] * len(prompt) + answer for prompt, answer in pairs], IGNORED, side
        )
    return Batch(
        input_ids=_padded(prompts, pad, side),
        attention_mask=_padded([[1] * len(prompt) for prompt in prompts], 0, side),
        labels=labels,
        is_encoder_decoder=is_encoder_decoder,
    )


def encode_prompts(
    inputs: Sequence[str], template: Template, tokenizer: Any, *, is_encoder_decoder: bool
) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask (B, T) of bare prompts, padded for generation."""
    prompts = [_ids(tokenizer, _prompt(text, template, is_encoder_decoder)) for text in inputs]
    if not is_encoder_decoder:
        prompts = [_without_end(prompt, tokenizer) for prompt in prompts]
    side = "right" if is_encoder_decoder else "left"
    return (
        _padded(prompts, pad_id(tokenizer), side),
        _padded([[1] * len(prompt) for prompt in prompts], 0, side),
    )


def pad_id(tokenizer: Any) -> int:
    """Padding is masked everywhere, so any id serves where the tokenizer has none of its own."""
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0


def _prompt(text: str, template: Template, is_encoder_decoder: bool) -> str:
    """A decoder-only model writes " answer" after the prompt, so the prompt ends without space."""
    prompt = template.render(text)
    return prompt if is_encoder_decoder else prompt.rstrip(" ")


def _prompt_and_answer(
    example: Example, template: Template, tokenizer: Any
) -> tuple[list[int], list[int]]:
    """Prompt ids exactly as generation will see them, and the answer ids that follow, with end.

    Tokenised together first, because many tokenizers write a word after a space differently.
    """
    prompt = _prompt(example.input, template, is_encoder_decoder=False)
    separator = "" if prompt.endswith(("\n", "\t")) else " "
    prompt_ids = _without_end(_ids(tokenizer, prompt), tokenizer)
    whole = _without_end(_ids(tokenizer, prompt + separator + example.target), tokenizer)
    answer = whole[len(prompt_ids) :]
    if whole[: len(prompt_ids)] != prompt_ids or not answer:
        answer = list(tokenizer(separator + example.target, add_special_tokens=False).input_ids)
    end = getattr(tokenizer, "eos_token_id", None)
    return prompt_ids, answer + ([] if end is None else [int(end)])


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text).input_ids)


def _without_end(ids: list[int], tokenizer: Any) -> list[int]:
    end = getattr(tokenizer, "eos_token_id", None)
    start = getattr(tokenizer, "bos_token_id", None)
    return ids[:-1] if len(ids) > 1 and ids[-1] == end and end != start else ids


def _padded(rows: Sequence[list[int]], value: int, side: str) -> Tensor:
    width = max((len(row) for row in rows), default=0)
    fill = [[value] * (width - len(row)) for row in rows]
    if side == "left":
        return torch.tensor([gap + row for gap, row in zip(fill, rows, strict=True)])
    return torch.tensor([row + gap for gap, row in zip(fill, rows, strict=True)])

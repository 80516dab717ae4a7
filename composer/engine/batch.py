"""Examples as tensors, for both kinds of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from composer.engine.chat import Chat, of_tokenizer
from composer.engine.errors import BadExamples
from composer.engine.examples import Example
from composer.engine.prompt import Template

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """B examples.

    Encoder-decoder: input_ids (B, T) is the prompt, labels (B, L) the answer.
    Decoder-only: input_ids (B, T) is prompt and answer, labels (B, T) the answer where it
    stands and IGNORED elsewhere, so that loss is counted on answer tokens only. All of its
    prompts begin with the same `prefix` tokens, and have more.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    is_encoder_decoder: bool
    prefix: int = 0

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def answer_tokens(self) -> Tensor:
        """Label tokens of each example, (B,). A decoder-only model never predicts position 0."""
        labels = self.labels if self.is_encoder_decoder else self.labels[:, 1:]
        return (labels != IGNORED).sum(dim=1)

    def rows(self, start: int, stop: int) -> Batch:
        return replace(
            self,
            input_ids=self.input_ids[start:stop],
            attention_mask=self.attention_mask[start:stop],
            labels=self.labels[start:stop],
        )

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
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
    prefix = 0
    if is_encoder_decoder:
        chat_of(template, tokenizer, is_encoder_decoder=True)
        prompts = [_ids(tokenizer, template.render(example.input)) for example in examples]
        answers = [_ids(tokenizer, example.target) for example in examples]
        labels = _padded(answers, IGNORED, "right")
    else:
        pairs = prompts_and_answers(examples, template, tokenizer)
        prefix = _shared([prompt for prompt, _ in pairs])
        prompts = [prompt + answer for prompt, answer in pairs]
        labels = _padded(
            [[IGNORED] * len(prompt) + answer for prompt, answer in pairs], IGNORED, side
        )
    return Batch(
        input_ids=_padded(prompts, pad, side),
        attention_mask=_padded([[1] * len(prompt) for prompt in prompts], 0, side),
        labels=labels,
        is_encoder_decoder=is_encoder_decoder,
        prefix=prefix,
    )


def encode_prompts(
    inputs: Sequence[str], template: Template, tokenizer: Any, *, is_encoder_decoder: bool
) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask (B, T) of bare prompts, padded for generation."""
    chat = chat_of(template, tokenizer, is_encoder_decoder=is_encoder_decoder)
    texts = [
        prompt_text(text, template, tokenizer, is_encoder_decoder=is_encoder_decoder)
        for text in inputs
    ]
    prompts = [_ids(tokenizer, text, add_special_tokens=chat is None) for text in texts]
    if not is_encoder_decoder and chat is None:
        prompts = [_without_end(prompt, tokenizer) for prompt in prompts]
    side = "right" if is_encoder_decoder else "left"
    return (
        _padded(prompts, pad_id(tokenizer), side),
        _padded([[1] * len(prompt) for prompt in prompts], 0, side),
    )


def prompt_text(text: str, template: Template, tokenizer: Any, *, is_encoder_decoder: bool) -> str:
    """What the model reads for one input, as text.

    A decoder-only model writes " answer" after the prompt, so the prompt ends without space.
    """
    prompt = template.render(text)
    chat = chat_of(template, tokenizer, is_encoder_decoder=is_encoder_decoder)
    if chat is not None:
        return chat.ask(prompt)
    return prompt if is_encoder_decoder else prompt.rstrip(" ")


def chat_of(template: Template, tokenizer: Any, *, is_encoder_decoder: bool) -> Chat | None:
    """The chat template in which prompts are asked, or None where they are read as they stand.

    Its `hash` is what a recipe records.
    """
    if template.chat is False or (is_encoder_decoder and template.chat is None):
        return None
    chat = of_tokenizer(tokenizer)
    if template.chat and (chat is None or is_encoder_decoder):
        raise BadExamples(
            "The chat template is asked for, but this base model's tokenizer has none. Turn it off."
            if not is_encoder_decoder
            else "Encoder-decoder models have no chats. Turn the chat template off.",
            field="chat",
            part="template",
        )
    return chat


def end_of_turn(tokenizer: Any, chat: Chat | None) -> int | None:
    """The token that ends an answer: the one that ends the assistant's turn, or the text's end."""
    end = getattr(tokenizer, "eos_token_id", None)
    if chat is not None:
        _, after = chat.around_answer()
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        ends = [id_ for id_ in _ids(tokenizer, after, add_special_tokens=False) if id_ in special]
        end = ends[0] if ends else end
    return None if end is None else int(end)


def prompts_and_answers(
    examples: Sequence[Example], template: Template, tokenizer: Any
) -> list[tuple[list[int], list[int]]]:
    """For a decoder-only model: prompt ids exactly as generation will see them, and the answer ids
    that follow, with their end."""
    chat = chat_of(template, tokenizer, is_encoder_decoder=False)
    end = end_of_turn(tokenizer, chat)
    lead = None if chat is None else chat.around_answer()[0]
    found = []
    for example in examples:
        prompt = prompt_text(example.input, template, tokenizer, is_encoder_decoder=False)
        separator = lead if lead is not None else "" if prompt.endswith(("\n", "\t")) else " "
        ids, answer = _joined(prompt, separator + example.target, tokenizer, chat is None)
        found.append((ids, answer + ([] if end is None else [end])))
    return found


def pad_id(tokenizer: Any) -> int:
    """Padding is masked everywhere, so any id serves where the tokenizer has none of its own."""
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0


def _shared(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; each keeps one to predict its answer from."""
    shortest = min((len(prompt) for prompt in prompts), default=1) - 1
    equal = (len({prompt[i] for prompt in prompts}) == 1 for i in range(shortest))
    return sum(takewhile(bool, equal))


def _joined(
    prompt: str, answer: str, tokenizer: Any, add_special_tokens: bool
) -> tuple[list[int], list[int]]:
    """Tokenised together first, because many tokenizers write a word after a space differently."""
    prompt_ids = _ids(tokenizer, prompt, add_special_tokens=add_special_tokens)
    whole = _ids(tokenizer, prompt + answer, add_special_tokens=add_special_tokens)
    if add_special_tokens:
        prompt_ids, whole = _without_end(prompt_ids, tokenizer), _without_end(whole, tokenizer)
    rest = whole[len(prompt_ids) :]
    if whole[: len(prompt_ids)] != prompt_ids or not rest:
        rest = _ids(tokenizer, answer, add_special_tokens=False)
    return prompt_ids, rest


def _ids(tokenizer: Any, text: str, *, add_special_tokens: bool = True) -> list[int]:
    return list(tokenizer(text, add_special_tokens=add_special_tokens).input_ids)


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

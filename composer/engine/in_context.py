"""The examples shown before the input, and no adapter at all: in-context learning, a neighbour
that costs nothing to find and more to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from composer.engine.base_model import BaseModel
from composer.engine.batch import encode_prompts
from composer.engine.examples import Example
from composer.engine.prompt import Template


@dataclass(frozen=True)
class Layout:
    """What stands between an example's prompt and its answer, between two examples, and behind
    the last prompt."""

    answer: str = " "
    between: str = "\n\n"
    end: str = ""


@dataclass(frozen=True)
class KShot:
    """Prompts that hold their examples: predict with this template, without stack and weights.

    shots   how many of the examples each prompt holds; fewer where the model reads no more
    tokens  tokens of each prompt, a chat template's included: what an answer costs instead of a
            search
    """

    name: str
    prompts: tuple[str, ...]
    shots: tuple[int, ...]
    tokens: tuple[int, ...]
    template: Template
    cost: int = 0

    @property
    def tokens_per_input(self) -> float:
        return sum(self.tokens) / len(self.tokens) if self.tokens else 0.0


def k_shot(
    base: BaseModel,
    examples: Sequence[Example],
    inputs: Sequence[str],
    template: Template,
    *,
    layout: Layout | None = None,
) -> KShot:
    """A prompt for each input, with as many of the first examples as fit into what the model reads.

    Each example is its prompt and its answer as the template and the layout write them; all of it
    is one turn of a chat, where the template asks for one.
    """
    layout, whole = layout or Layout(), Template(chat=template.chat)
    shown = [
        f"{template.render(each.input)}{layout.answer}{each.target}{layout.between}"
        for each in examples
    ]
    found = [_fitted(base, whole, shown, template.render(text) + layout.end) for text in inputs]
    return KShot(
        name="in context",
        prompts=tuple(prompt for prompt, _, _ in found),
        shots=tuple(shots for _, shots, _ in found),
        tokens=tuple(tokens for _, _, tokens in found),
        template=whole,
    )


def _fitted(
    base: BaseModel, template: Template, shown: Sequence[str], prompt: str
) -> tuple[str, int, int]:
    """The prompt with the most examples that fit; with none of them it is left as it is."""
    shots = len(shown)
    while True:
        whole = "".join(shown[:shots]) + prompt
        ids, _ = encode_prompts(
            [whole], template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
        )
        tokens = int(ids.shape[1])
        if shots == 0 or base.max_tokens is None or tokens <= base.max_tokens:
            return whole, shots, tokens
        shots -= 1

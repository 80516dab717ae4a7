"""What differs between the demo's two base models: an encoder-decoder and a decoder-only one.

A family makes a new model, encodes lines for it, and says where the answers' logits are; the
training itself is the same for both (`train.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from composer.demo import skills
from composer.demo.plans import Plan
from composer.demo.skills import Line
from composer.demo.tokenizer import END_ID, PAD_ID

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """B lines, padded on the right.

    labels (B, L) are the answers' tokens and the end, own (B, L) bool says which of them belong to
    the module's own relation.  Encoder-decoder: input_ids, attention_mask (B, T) are the prompt.
    Decoder-only: input_ids (B, T) are prompt and answer, and places (B, L) says after which token
    of them each label is predicted.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    own: Tensor
    places: Tensor | None = None


class Family(Protocol):
    task_type: str
    target_modules: tuple[str, ...]
    ends_prompts: bool
    """Whether the tokenizer puts the end behind every text, as encoders want it."""

    def new_model(self, plan: Plan, coder: Tokenizer, seed: int) -> Any: ...
    def read(self, folder: Path) -> Any: ...
    def encode(self, lines: Sequence[Line], coder: Tokenizer, device: torch.device) -> Batch: ...
    def answer_logits(self, model: Any, batch: Batch) -> Tensor:
        """(B, L, V), the logits of batch.labels."""

    def rate_groups(self, model: Any, rate: float) -> list[dict[str, Any]]: ...


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def own_answers(lines: Sequence[Line], targets: Sequence[Sequence[int]]) -> Tensor:
    """(B, L).  Every answer is one token, and the end of the line belongs to the module as well."""
    own = [[*line.own, True] if line.own else [True] * len(row)
           for line, row in zip(lines, targets, strict=True)]  # fmt: skip
    return padded(own, False)


def ids(texts: Sequence[str], coder: Tokenizer) -> list[list[int]]:
    return [item.ids for item in coder.encode_batch_fast(list(texts))]


class T5(Family):
    task_type = "SEQ_2_SEQ_LM"
    target_modules = ("q", "v")
    ends_prompts = True

    def new_model(self, plan: Plan, coder: Tokenizer, seed: int) -> T5ForConditionalGeneration:
        config = T5Config(
            vocab_size=coder.get_vocab_size(),
            d_model=plan.d_model,
            d_kv=plan.d_model // plan.heads,
            d_ff=plan.d_ff,
            num_layers=plan.encoder_layers,
            num_decoder_layers=plan.decoder_layers,
            num_heads=plan.heads,
            dropout_rate=0.0,
            feed_forward_proj="relu",
            pad_token_id=PAD_ID,
            eos_token_id=END_ID,
        )
        config.decoder_start_token_id = PAD_ID
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(skills.stable_number("base weights", seed) % 2**63)
            model = T5ForConditionalGeneration(config)
            # With the default weights training stays at the mean answer for thousands of steps.
            with torch.no_grad():
                model.shared.weight.mul_(0.3)
            # transformers always builds T5 with one table for both ends; ours are two, as in T5
            # 1.1.
            head = torch.randn_like(model.shared.weight) * 0.05
        model.lm_head.weight = torch.nn.Parameter(head)
        model.config.scale_decoder_outputs = False
        model.generation_config = GenerationConfig(
            pad_token_id=PAD_ID,
            eos_token_id=END_ID,
            decoder_start_token_id=PAD_ID,
            max_new_tokens=24,
        )
        return model

    def read(self, folder: Path) -> T5ForConditionalGeneration:
        return T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def encode(self, lines: Sequence[Line], coder: Tokenizer, device: torch.device) -> Batch:
        inputs = ids([line.input for line in lines], coder)
        targets = ids([line.target for line in lines], coder)
        return Batch(
            padded(inputs, PAD_ID).to(device),
            padded([[1] * len(row) for row in inputs], 0).to(device),
            padded(targets, IGNORED).to(device),
            own_answers(lines, targets).to(device),
        )

    def answer_logits(self, model: T5ForConditionalGeneration, batch: Batch) -> Tensor:
        logits: Tensor = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
        ).logits
        return logits

    def rate_groups(self, model: T5ForConditionalGeneration, rate: float) -> list[dict[str, Any]]:
        """T5 has no 1/sqrt(d) in its attention, so queries learn at a fifth of the rate."""
        named = list(model.named_parameters())
        queries = [value for name, value in named if name.endswith(".q.weight")]
        others = [value for name, value in named if not name.endswith(".q.weight")]
        return [{"params": others, "lr": rate}, {"params": queries, "lr": rate * 0.2}]


class Llama(Family):
    task_type = "CAUSAL_LM"
    target_modules = ("q_proj", "v_proj")
    ends_prompts = False

    def new_model(self, plan: Plan, coder: Tokenizer, seed: int) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=coder.get_vocab_size(),
            hidden_size=plan.d_model,
            intermediate_size=plan.d_ff,
            num_hidden_layers=plan.decoder_layers,
            num_attention_heads=plan.heads,
            num_key_value_heads=plan.heads,
            max_position_embeddings=256,
            initializer_range=0.05,
            bos_token_id=None,
            pad_token_id=PAD_ID,
            eos_token_id=END_ID,
            tie_word_embeddings=False,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(skills.stable_number("base weights", seed) % 2**63)
            model = LlamaForCausalLM(config)
            with torch.no_grad():
                model.model.embed_tokens.weight.normal_(0, 0.3)
        # What a layer adds is small at first, as in GPT-2: two additions a layer.
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    value.mul_((2 * plan.decoder_layers) ** -0.5)
        model.generation_config = GenerationConfig(
            pad_token_id=PAD_ID, eos_token_id=END_ID, max_new_tokens=24
        )
        return model

    def read(self, folder: Path) -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def encode(self, lines: Sequence[Line], coder: Tokenizer, device: torch.device) -> Batch:
        """As the engine writes them (`composer/engine/batch.py`): the prompt without the spaces at
        its end, a space, the answer, the end.

        Padding is on the right here: a causal model does not see it, so nothing needs a mask.
        """
        prompts = ids([line.input.rstrip(" ") for line in lines], coder)
        targets = [[*row, END_ID] for row in ids([line.target for line in lines], coder)]
        whole = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
        # The last token of the prompt predicts the first of the answer.
        places = [
            [len(prompt) - 1 + t for t in range(len(target))]
            for prompt, target in zip(prompts, targets, strict=True)
        ]
        return Batch(
            padded(whole, PAD_ID).to(device),
            padded([[1] * len(row) for row in whole], 0).to(device),
            padded(targets, IGNORED).to(device),
            own_answers(lines, targets).to(device),
            padded(places, 0).to(device),
        )

    def answer_logits(self, model: LlamaForCausalLM, batch: Batch) -> Tensor:
        hidden = model.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        assert batch.places is not None
        row = torch.arange(len(hidden), device=hidden.device)[:, None]
        logits: Tensor = model.lm_head(hidden[row, batch.places])
        return logits

    def rate_groups(self, model: LlamaForCausalLM, rate: float) -> list[dict[str, Any]]:
        return [{"params": list(model.parameters()), "lr": rate}]


FAMILIES: dict[str, Family] = {"t5": T5(), "llama": Llama()}

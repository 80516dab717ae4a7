"""The slow obvious version: one candidate, one example, ΔW written out and added to W."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from composer.engine.base_model import BaseModel
from composer.engine.examples import Example
from composer.engine.prompt import Template
from composer.engine.stack import Stack


def delta(
    weights: Sequence[float],
    stack: Stack,
    combination: str,
    layer: str,
    blocks: dict[str, int] | None = None,
) -> Tensor:
    """ΔW (D_out, D_in), term by term, in float64; the stack's B A is s·B A already."""
    A, B = stack.A[layer].double(), stack.B[layer].double()
    N = len(stack)
    first = N * blocks[layer] if blocks else 0
    w = weights[first : first + N]
    if combination == "sum":
        return sum(w[n] * B[n] @ A[n] for n in range(N))
    terms = [(n, m) for n in range(N) for m in range(N)]
    if combination == "linear":
        root = [abs(each) ** 0.5 for each in w]
        sign = [-1.0 if each < 0 else 1.0 for each in w]
        return sum(root[n] * root[m] * sign[m] * B[n] @ A[m] for n, m in terms)
    return sum(w[n] * w[m] * B[n] @ A[m] for n, m in terms)


@contextmanager
def merged(
    base: BaseModel,
    weights: Sequence[float],
    stack: Stack,
    combination: str,
    blocks: dict[str, int] | None = None,
):
    """Inside, ΔW is part of the base model's own weights."""
    before = {}
    for layer in stack.A:
        weight = base.layer(layer).weight
        before[layer] = weight.data.clone()
        change = delta(weights, stack, combination, layer, blocks).to(weight.dtype)
        weight.data += change.T if type(base.layer(layer)).__name__ == "Conv1D" else change
    try:
        yield
    finally:
        for layer, weight in before.items():
            base.layer(layer).weight.data = weight


def answer_losses(
    base: BaseModel, examples: Sequence[Example], template: Template
) -> list[list[float]]:
    """-log p of every answer token, an example at a time, without padding."""
    found = []
    for example in examples:
        prompt = template.render(example.input)
        if base.is_encoder_decoder:
            ids = base.tokenizer(prompt, return_tensors="pt").input_ids
            answer = base.tokenizer(example.target, return_tensors="pt").input_ids[0]
            first = base.model.config.decoder_start_token_id
            start = torch.cat([torch.tensor([first]), answer[:-1]])[None]
            with torch.no_grad():
                logits = base.model(input_ids=ids, decoder_input_ids=start).logits[0]
        else:
            prompt_ids = base.tokenizer(prompt).input_ids
            words = base.tokenizer(" " + example.target, add_special_tokens=False).input_ids
            answer = torch.tensor([*words, 1])
            ids = torch.tensor([[*prompt_ids, *answer.tolist()]])
            with torch.no_grad():
                logits = base.model(input_ids=ids).logits[0]
            logits = logits[len(prompt_ids) - 1 : -1]
        logp = torch.log_softmax(logits.double(), dim=-1)
        found.append([-float(logp[t, token]) for t, token in enumerate(answer.tolist())])
    return found


def written(base: BaseModel, text: str, template: Template, length: int) -> str:
    """The likeliest token, again and again, each by a whole forward of its own."""
    ids = base.tokenizer(template.render(text)).input_ids
    stop = base.tokenizer.eos_token_id
    config = base.model.config
    out = [config.decoder_start_token_id] if base.is_encoder_decoder else list(ids)
    first = len(out)
    forced = getattr(base.model.generation_config, "forced_bos_token_id", None)
    while len(out) < first + length and (len(out) == first or out[-1] != stop):
        rows = torch.tensor([out])
        with torch.no_grad():
            if base.is_encoder_decoder:
                logits = base.model(input_ids=torch.tensor([ids]), decoder_input_ids=rows).logits
            else:
                logits = base.model(input_ids=rows).logits
        token = int(logits[0, -1].argmax())
        out.append(forced if forced is not None and len(out) == first else token)
    return str(base.tokenizer.decode(out[first:], skip_special_tokens=True)).strip()

"""The strongest neighbour: one new LoRA trained by gradient on the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch, encode
from composer.engine.chunk import Chunk, OutOfMemory, bounded, default_chunk
from composer.engine.compose import compose
from composer.engine.contenders import Contender
from composer.engine.errors import IncompatibleModules
from composer.engine.examples import Example
from composer.engine.forward import prepare
from composer.engine.loss import parts
from composer.engine.prompt import Template
from composer.engine.stack import Stack, layer_size, of_layers, target_modules

# A gradient step is charged as three forwards: one forward, about two for the backward.
FORWARDS_PER_STEP = 3
QUERY_AND_VALUE = ("q", "v", "q_proj", "v_proj", "c_attn", "query", "value")


@dataclass(frozen=True)
class FreshRecipe:
    """Fixed before any result was seen: PEFT's own initialisation (A uniform as nn.Linear's,
    B zero), AdamW, all examples in every step, a rate that falls linearly to zero, no dropout."""

    r: int = 8
    lora_alpha: int = 16
    steps: int = 50
    learning_rate: float = 3e-3
    weight_decay: float = 0.01


def fresh_lora(
    base: BaseModel,
    examples: Sequence[Example],
    template: Template,
    *,
    seed: int,
    layers: Sequence[str] | None = None,
    recipe: FreshRecipe | None = None,
    after_step: Callable[[], None] | None = None,
) -> Contender:
    """Train one LoRA on the examples; the base model itself is left as it was.

    layers None adapts every query and value projection. The result is a stack of one module, so
    it is predicted with and exported like any other (weights (1,), combination `sum`).
    after_step is called after every step; what it raises ends the training.
    """
    recipe = recipe or FreshRecipe()
    start = _new_lora(base, _layers(base, layers), recipe, seed)
    batch = encode(
        examples, template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
    ).to(base.device)
    chunk = Chunk(candidates=1, examples=default_chunk(base, batch).examples)
    while True:
        try:
            with bounded(chunk):
                return _trained(base, batch, start, recipe, chunk.examples, after_step)
        except OutOfMemory as error:  # a training keeps more than a forward does
            if error.smaller is None:
                raise
            chunk = error.smaller


def _trained(
    base: BaseModel,
    batch: Batch,
    start: Stack,
    recipe: FreshRecipe,
    at_once: int,
    after_step: Callable[[], None] | None,
) -> Contender:
    """Every step on all examples, `at_once` of them in one forward and backward."""
    rows, root = start.rows.clone(), math.sqrt(recipe.lora_alpha / recipe.r)
    optimiser = torch.optim.AdamW([rows], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    tokens = int(batch.answer_tokens.sum())
    prepared = [prepare(base, some) for _, some in parts(batch, at_once)]
    loss = math.nan
    with torch.enable_grad():
        rows.requires_grad_()
        for step in range(recipe.steps):
            optimiser.param_groups[0]["lr"] = recipe.learning_rate * (1 - step / recipe.steps)
            # s is folded in at every step, so that A and B are trained as PEFT trains them.
            factors = compose([[1.0]], replace(start, rows=rows * root), "sum")
            optimiser.zero_grad()
            loss = 0.0
            for some in prepared:
                share = some.losses(factors).sum() / tokens
                share.backward(retain_graph=True)  # type: ignore[no-untyped-call]
                loss += float(share.detach())
            optimiser.step()
            if after_step is not None:
                after_step()
    return Contender(
        name="fresh LoRA",
        stack=replace(start, rows=rows.detach() * root),
        weights=np.ones(1),
        combination="sum",
        cost=FORWARDS_PER_STEP * recipe.steps,
        loss=loss,
    )


def _layers(base: BaseModel, layers: Sequence[str] | None) -> list[str]:
    if layers is None:
        layers = [
            name
            for name, _ in base.model.named_modules()
            if name.rpartition(".")[2] in QUERY_AND_VALUE and layer_size(base, name)
        ]
    if not layers:
        raise IncompatibleModules(
            f"{base.folder.name} has no layers named {', '.join(QUERY_AND_VALUE)}. Name the "
            "layers to train."
        )
    return sorted(layers)


def _new_lora(base: BaseModel, layers: Sequence[str], recipe: FreshRecipe, seed: int) -> Stack:
    """A uniform in ±1/√D_in (kaiming, a = √5), B zero; s = alpha / r is not folded in yet."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {}
    for name in layers:
        size = layer_size(base, name)
        if size is None:
            raise IncompatibleModules(f"{name!r} is not a linear layer of {base.folder.name}.")
        sizes[name] = size
    places = of_layers(sizes, recipe.r)
    end = max(place.b + place.R * place.d_out for place in places.values())
    rows = torch.zeros(1, end)
    for name in layers:
        place = places[name]
        noise = torch.rand(1, recipe.r, place.d_in, generator=generator) * 2 - 1
        place.A(rows).copy_(noise / math.sqrt(place.d_in))
    return Stack(
        rows=rows.to(base.device),
        places=places,
        ranks=dict.fromkeys(places, (recipe.r,)),
        names=("fresh LoRA",),
        target_modules=target_modules(layers, base),
        transposed=any(type(base.layer(name)).__name__ == "Conv1D" for name in layers),
        task_type="SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
    )

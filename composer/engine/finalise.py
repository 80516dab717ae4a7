"""A recipe becomes an adapter that can be handed out: written, loaded again by PEFT, compared."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch, encode_prompts, prompt_text
from composer.engine.chunk import default_chunk
from composer.engine.compose import Factors, compose
from composer.engine.errors import CommonsError
from composer.engine.export import Exported, export
from composer.engine.loss import answer_losses, parts
from composer.engine.population import attached
from composer.engine.prompt import Template
from composer.engine.recipe import Recipe, canonical, config_of
from composer.engine.stack import Stack

# What PEFT computes from the file may differ from the search by rounding, and by no more. Where a
# model has 16 bits every layer rounds, and PEFT keeps the factors in 32: in bfloat16 (ε = 0.0078)
# losses of random models of 8 layers, and of 6 and 6, were seen to differ by up to 0.7%.
TOLERANCE = 1e-3
TOLERANCE_IN_EPSILONS = 4
# Layers kept in 8 bits round each batch in a way of its own.
QUANTISED_TOLERANCE = 5e-2
PROBE = "hello"
PROBE_TOKENS = 5


class AdapterDiffers(CommonsError):
    """PEFT does not compute from the file what the search computed: it must not be handed out."""

    code = "adapter_differs"


@dataclass(frozen=True)
class Finalised:
    """A written adapter, and what was seen when PEFT loaded it again.

    max_difference    of the examples' losses, PEFT from the file against the engine; None where
                      no examples were at hand
    logit_difference  of the logits of the first token after a fixed prompt
    probe             that prompt with the likeliest tokens: whoever loads the adapter can compare
    """

    exported: Exported
    max_difference: float | None
    logit_difference: float
    probe: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        return {
            **self.exported.facts(),
            "max_difference": self.max_difference,
            "logit_difference": self.logit_difference,
            "probe": self.probe,
        }


def finalise(
    recipe: Recipe,
    base: BaseModel,
    stack: Stack,
    folder: Path | str,
    *,
    batch: Batch | None = None,
    base_model: str | None = None,
    revision: str | None = None,
) -> Finalised:
    """Write the recipe's adapter into a folder, with the recipe inside, and compare.

    batch are the examples to compare losses on. AdapterDiffers when PEFT computes something else.
    """
    settings = config_of(recipe.spec)
    made = export(
        recipe.weights,
        stack,
        settings.combination,
        folder,
        blocks=settings.blocks,
        rank=settings.rank,
        base_model=base_model,
        revision=revision,
        recipe=canonical(recipe).decode(),
    )
    if made.errors:  # cut down: what was searched is not what is handed out
        factors = compose([[1.0]], made.as_stack(stack), "sum")
    else:
        factors = compose([list(recipe.weights)], stack, settings.combination, settings.blocks)
    template = Template(recipe.spec["template"], bool(recipe.spec.get("chat_template")))
    return compare(made, Path(folder), base, factors, template, batch)


def compare(
    made: Exported,
    folder: Path,
    base: BaseModel,
    factors: Factors,
    template: Template,
    batch: Batch | None,
) -> Finalised:
    """Losses of the examples, and the logits of a probe, by the engine and by PEFT from the file.

    PEFT puts its layers into the base model that is given; `unload` takes them out again.
    """
    with torch.inference_mode():
        ours = _measured(base, factors, template, batch)
        loaded = PeftModel.from_pretrained(base.model, str(folder))
        try:
            loaded.eval()  # with PEFT's layers in the base model
            model = replace(base, model=loaded.get_base_model())
            theirs = _measured(model, None, template, batch)
        finally:
            loaded.unload()
    logits = float((ours[0] - theirs[0]).abs().max())
    losses = None
    if ours[1] is not None and theirs[1] is not None:
        losses = float((ours[1] - theirs[1]).abs().max())
        _refuse_difference("losses", losses, ours[1], base)
    else:
        _refuse_difference("logits", logits, ours[0], base)
    top = theirs[0].topk(min(PROBE_TOKENS, len(theirs[0])))
    asked = prompt_text(PROBE, template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder)
    probe = {
        "prompt": asked,
        "token_ids": top.indices.tolist(),
        "logits": [round(value, 5) for value in top.values.tolist()],
    }
    return Finalised(made, losses, logits, probe)


def _measured(
    base: BaseModel, factors: Factors | None, template: Template, batch: Batch | None
) -> tuple[Tensor, Tensor | None]:
    """The probe's logits (V,), and the examples' losses (1, B)."""
    logits = _probe(base, template, factors)
    if batch is None:
        return logits, None
    batch = batch.to(base.device)
    at_once = default_chunk(base, batch).examples
    some = [answer_losses(base, factors, rows) for _, rows in parts(batch, at_once)]
    return logits, torch.cat(some, dim=1)


def _probe(base: BaseModel, template: Template, factors: Factors | None) -> Tensor:
    ids, mask = encode_prompts(
        [PROBE], template, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder
    )
    inputs = {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device)}
    if base.is_encoder_decoder:
        start = base.model.config.decoder_start_token_id
        inputs["decoder_input_ids"] = torch.full((1, 1), start, device=base.device)
    with nullcontext() if factors is None else attached(base, factors, rows=1):
        logits: Tensor = base.model(**inputs).logits[0, -1].float()
    return logits


def _refuse_difference(what: str, difference: float, ours: Tensor, base: BaseModel) -> None:
    # Losses are sums over answer tokens; what rounding does grows with them.
    allowed = max(TOLERANCE, TOLERANCE_IN_EPSILONS * torch.finfo(base.model.dtype).eps)
    if base.quantisation:
        allowed = max(allowed, QUANTISED_TOLERANCE)
    if not difference <= allowed * max(1.0, float(ours.abs().max())):
        raise AdapterDiffers(
            f"The adapter file does not compute what the search computed ({what} differ by "
            f"{difference:.2g}), so it is not handed out. Please report this."
        )

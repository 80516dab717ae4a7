"""An adapter is handed out once PEFT has computed from its files what the engine did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from composer.engine import base_model
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.card import card
from composer.engine.compose import compose
from composer.engine.config import SearchConfig
from composer.engine.examples import Example, encode
from composer.engine.export import export
from composer.engine.finalise import TOLERANCE, AdapterDiffers, compare, finalise
from composer.engine.recipe import Recipe, build, inside, make_spec
from composer.engine.stack import Stack
from tests.engine.conftest import TEMPLATE, WORDS, make_adapter, make_tokenizer

WEIGHTS = [0.9, -0.4, 0.0, 0.7]


def recipe_of(modules: Stack, **settings: object) -> Recipe:
    spec = make_spec(
        base_model={"repo": "us/base", "revision": "r" * 40},
        ingredients=[
            {"repo": f"us/{name}", "revision": "c" * 40, "sha256": "0" * 64}
            for name in modules.names
        ],
        config=SearchConfig(**settings),  # type: ignore[arg-type]
        template=TEMPLATE.text,
        examples_hash="0" * 64,
    )
    return build(spec, WEIGHTS)


@pytest.mark.parametrize("with_examples", [True, False])
@pytest.mark.parametrize("settings", [{}, {"rank": 2}, {"combination": "lorahub"}])
def test_it_writes_what_peft_computes_and_says_how_near(
    t5: BaseModel,
    modules: Stack,
    batch: Batch,
    tmp_path: Path,
    settings: dict[str, object],
    with_examples: bool,
) -> None:
    recipe = recipe_of(modules, **settings)
    made = finalise(recipe, t5, modules, tmp_path, batch=batch if with_examples else None)
    assert made.logit_difference < 1e-5 and len(made.probe["token_ids"]) == 5
    if with_examples:
        assert made.max_difference is not None and made.max_difference < 1e-4
    else:
        assert made.max_difference is None
    assert inside(tmp_path / "adapter_model.safetensors").id == recipe.id
    assert not any("lora" in name for name, _ in t5.model.named_parameters())


@pytest.mark.parametrize("with_examples", [True, False])
def test_files_that_compute_something_else_are_not_handed_out(
    t5: BaseModel, modules: Stack, batch: Batch, tmp_path: Path, with_examples: bool
) -> None:
    other = export(np.array(WEIGHTS) + 1, modules, "sum", tmp_path)
    with pytest.raises(AdapterDiffers, match="not handed out"):
        compare(
            other, tmp_path, t5, compose([WEIGHTS], modules, "sum"), TEMPLATE,
            batch if with_examples else None,
        )  # fmt: skip
    assert not any("lora" in name for name, _ in t5.model.named_parameters())


def test_rounding_in_16_bits_holds_no_adapter_back(tmp_path: Path) -> None:
    """A GPU's workers load bfloat16; these sizes round as much as released models do."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3 + len(WORDS), hidden_size=128, intermediate_size=256, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    make_tokenizer(tmp_path / "base", end=False)
    base = base_model.load(tmp_path / "base", dtype=torch.bfloat16)
    targets = {"target_modules": ["q_proj", "v_proj"], "r": 8}
    folders = [make_adapter(base, tmp_path / f"m{n}", n, **targets) for n in range(2)]
    modules = stacks.load(folders, base)
    shots = [Example("big hot", "small " * 8), Example("up", "down")]
    batch = encode(shots, TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    factors = compose([[0.5, -0.3]], modules, "sum")
    own = export([0.5, -0.3], modules, "sum", tmp_path / "own")
    other = export([-1.0, 1.0], modules, "sum", tmp_path / "other")
    seen = compare(own, tmp_path / "own", base, factors, TEMPLATE, batch)
    assert seen.max_difference is not None and seen.max_difference > TOLERANCE
    with pytest.raises(AdapterDiffers, match="not handed out"):
        compare(other, tmp_path / "other", base, factors, TEMPLATE, batch)


def test_the_card_says_what_it_was_made_of_how_it_was_found_and_what_was_lost(
    t5: BaseModel, modules: Stack, tmp_path: Path
) -> None:
    recipe = recipe_of(modules, rank=2)
    facts = finalise(recipe, t5, modules, tmp_path).facts()
    text = card(recipe, title="Opposites\n", adapter=facts, snippet="load()", opening=["Good."])
    assert text.startswith('---\nbase_model: "us/base"\nlibrary_name: "peft"\n')
    assert "\n# Opposites\n" in text and "\nGood.\n" in text and "load()" in text
    assert "| us/module-1 | `cccccccccccc` | -0.4000 |" in text
    assert "objective `paper` per token with a penalty of 0.02, cobyla with 200 evaluations" in text
    assert f"cut down from 6 to 2 by SVD, which changed ΔW by {facts['mean_error']:.1%}" in text
    assert recipe.id in text

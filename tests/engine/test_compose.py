from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.compose import compose, export
from composer.engine.errors import IncompatibleModules
from composer.engine.population import attached
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import make_adapter

WEIGHTS = np.array([0.9, -0.4, 0.0, 0.7])


def engine_logits(
    base: BaseModel, batch: Batch, weights: np.ndarray, stack: Stack, combination: str
) -> torch.Tensor:
    with torch.no_grad(), attached(base, compose(weights[None], stack, combination), len(batch)):
        return logits(base.model, batch)


def logits(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            decoder_input_ids=batch.labels.clamp(min=0),
        ).logits


def fresh(base: BaseModel) -> torch.nn.Module:
    return type(base.model).from_pretrained(base.folder).eval()


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_composes_the_delta_of_the_slow_obvious_version(
    modules: Stack, combination: str
) -> None:
    factors = compose(WEIGHTS[None], modules, combination)
    for layer, A in factors.A.items():
        if factors.scale is None:
            found = factors.Bt[layer][0].T @ A[0]
        else:
            found = factors.Bt[layer].T @ (factors.scale[0][:, None] * A)
        expected = slow.delta(WEIGHTS.tolist(), modules, combination, layer).float()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_exports_an_adapter_that_peft_loads_with_the_same_logits(
    t5: BaseModel, modules: Stack, batch: Batch, tmp_path: Path, combination: str
) -> None:
    export(WEIGHTS, modules, combination, tmp_path, base_model="us/base", revision="abc")
    loaded = PeftModel.from_pretrained(fresh(t5), tmp_path)
    config = loaded.peft_config["default"]
    assert (config.base_model_name_or_path, config.revision) == ("us/base", "abc")
    assert config.r == config.lora_alpha == {"sum": 6, "lorahub": 2}[combination]
    expected = engine_logits(t5, batch, WEIGHTS, modules, combination)
    torch.testing.assert_close(logits(loaded, batch), expected, atol=1e-5, rtol=0)
    assert (expected - logits(t5.model, batch)).abs().max() > 1e-2


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_its_export_is_a_module_that_can_be_composed_again(
    t5: BaseModel, modules: Stack, batch: Batch, tmp_path: Path, combination: str
) -> None:
    export(WEIGHTS, modules, combination, tmp_path)
    again = stacks.load([tmp_path], t5)
    torch.testing.assert_close(
        engine_logits(t5, batch, np.ones(1), again, "sum"),
        engine_logits(t5, batch, WEIGHTS, modules, combination),
        atol=1e-5,
        rtol=0,
    )


def test_it_exports_the_base_model_when_all_weights_are_zero(
    t5: BaseModel, modules: Stack, batch: Batch, tmp_path: Path
) -> None:
    for combination in ("sum", "lorahub"):
        export(np.zeros(4), modules, combination, tmp_path / combination)
        loaded = PeftModel.from_pretrained(fresh(t5), tmp_path / combination)
        assert (logits(loaded, batch) == logits(t5.model, batch)).all()


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_one_module_at_weight_1_is_that_module_in_peft(
    t5: BaseModel, modules: Stack, adapters: list[Path], batch: Batch, number: int, combination: str
) -> None:
    loaded = PeftModel.from_pretrained(fresh(t5), adapters[number])
    found = engine_logits(t5, batch, np.eye(4)[number], modules, combination)
    torch.testing.assert_close(found, logits(loaded, batch), atol=5e-6, rtol=0)


def test_lorahub_equals_pefts_linear_with_squared_weights(
    t5: BaseModel, modules: Stack, adapters: list[Path], batch: Batch
) -> None:
    """PEFT scales each factor by √(w_i s_i); so w_i² there is our w_i, for w_i >= 0."""
    weights = np.array([0.8, 0.5, 0.0, 0.6])
    loaded = PeftModel.from_pretrained(fresh(t5), adapters[0], adapter_name="0")
    for number in (1, 2, 3):
        loaded.load_adapter(adapters[number], str(number))
    loaded.add_weighted_adapter(
        ["0", "1", "2", "3"], (weights**2).tolist(), "mixed", combination_type="linear"
    )
    loaded.set_adapter("mixed")
    found = engine_logits(t5, batch, weights, modules, "lorahub")
    torch.testing.assert_close(logits(loaded, batch), found, atol=1e-5, rtol=0)


def test_lorahub_is_the_same_for_w_and_minus_w(t5: BaseModel, modules: Stack, batch: Batch) -> None:
    one, other = (engine_logits(t5, batch, sign * WEIGHTS, modules, "lorahub") for sign in (1, -1))
    assert (one == other).all()


def test_sum_takes_mixed_ranks_and_layers_and_lorahub_refuses_them(
    t5: BaseModel, batch: Batch, tmp_path: Path
) -> None:
    folders = [
        make_adapter(t5, tmp_path / "two", 1, r=2),
        make_adapter(t5, tmp_path / "three", 2, r=3, target_modules=["q", "wi"]),
    ]
    mixed = stacks.load(folders, t5)
    assert mixed.ranks == (2, 3)
    weights = np.array([0.5, -0.7])
    with slow.merged(t5, weights.tolist(), mixed, "sum"):
        expected = logits(t5.model, batch)
    found = engine_logits(t5, batch, weights, mixed, "sum")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    export(weights, mixed, "sum", tmp_path / "out")
    loaded = PeftModel.from_pretrained(fresh(t5), tmp_path / "out")
    torch.testing.assert_close(logits(loaded, batch), expected, atol=1e-5, rtol=0)
    with pytest.raises(IncompatibleModules, match="three has rank 3, two has rank 2"):
        compose(weights[None], mixed, "lorahub")


def test_a_subset_is_its_modules(t5: BaseModel, modules: Stack, batch: Batch) -> None:
    part = modules.subset([3, 1])
    assert part.names == ("module-3", "module-1")
    torch.testing.assert_close(
        engine_logits(t5, batch, np.array([0.7, -0.4]), part, "sum"),
        engine_logits(t5, batch, np.array([0, -0.4, 0, 0.7]), modules, "sum"),
        atol=1e-6,
        rtol=0,
    )

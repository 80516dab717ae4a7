from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors import safe_open

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.blocks import block_of, count
from composer.engine.compose import compose
from composer.engine.errors import IncompatibleModules
from composer.engine.export import export, factors_of
from composer.engine.population import attached
from composer.engine.recipe import RECIPE_KEY
from composer.engine.stack import Stack
from composer.engine.truncate import truncate
from tests.engine import slow
from tests.engine.conftest import make_adapter

WEIGHTS = np.array([0.9, -0.4, 0.0, 0.7])


def engine_logits(
    base: BaseModel,
    batch: Batch,
    weights: np.ndarray,
    stack: Stack,
    combination: str,
    blocks: str = "all",
) -> torch.Tensor:
    factors = compose(weights[None], stack, combination, blocks)
    with torch.no_grad(), attached(base, factors, len(batch)):
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


@pytest.mark.parametrize("combination", ["sum", "lorahub", "linear"])
def test_it_composes_the_delta_of_the_slow_obvious_version(
    modules: Stack, combination: str
) -> None:
    factors = compose(WEIGHTS[None], modules, combination)
    for layer, A in factors.A.items():
        if factors.scale is None:
            found = factors.Bt[layer][0].T @ A[0]
        else:
            found = factors.Bt[layer].T @ (factors.scale[layer][0][:, None] * A)
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


@pytest.fixture(scope="module")
def mixed(t5: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Ranks 2 and 3 on different layers, and one with a rank and an alpha of its own somewhere."""
    root = tmp_path_factory.mktemp("mixed")
    folders = [
        make_adapter(t5, root / "two", 1, r=2),
        make_adapter(t5, root / "three", 2, r=3, target_modules=["q", "wi"]),
        make_adapter(t5, root / "own", 3, rank_pattern={"v": 4}, alpha_pattern={"q": 1}),
    ]
    return stacks.load(folders, t5)


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
@pytest.mark.parametrize("blocks", ["all", "sides", "layers:3"])
def test_mixed_ranks_layers_and_blocks_are_the_slow_obvious_version(
    t5: BaseModel, batch: Batch, mixed: Stack, tmp_path: Path, combination: str, blocks: str
) -> None:
    weights = np.array([0.5, -0.7, 0.9, 0.3, 0.0, -0.6, 0.2, 0.8, -0.1])[: 3 * count(blocks)]
    block = block_of(mixed.places, blocks)
    with slow.merged(t5, weights.tolist(), mixed, combination, block):
        expected = logits(t5.model, batch)
    found = engine_logits(t5, batch, weights, mixed, combination, blocks)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    export(weights, mixed, combination, tmp_path, blocks=blocks)
    loaded = PeftModel.from_pretrained(fresh(t5), tmp_path)
    torch.testing.assert_close(logits(loaded, batch), expected, atol=1e-5, rtol=0)


def test_one_block_more_changes_nothing_where_its_weights_are_the_same(mixed: Stack) -> None:
    weights = np.array([[0.5, -0.7, 0.9]])
    for combination in ("sum", "lorahub"):
        one = compose(weights, mixed, combination)
        two = compose(np.tile(weights, 2), mixed, combination, "sides")
        for layer in mixed.places:
            torch.testing.assert_close(one.A[layer], two.A[layer])
            if one.scale is not None:
                assert (one.scale[layer] == two.scale[layer]).all()


def test_linear_refuses_what_peft_refuses(mixed: Stack) -> None:
    with pytest.raises(IncompatibleModules, match="has rank 4 in own and 2 in two"):
        compose([[0.1, 0.2, 0.3]], mixed.subset([0, 2]), "linear", "all")


def test_it_refuses_another_number_of_weights(mixed: Stack) -> None:
    with pytest.raises(IncompatibleModules, match="3 modules in 2 blocks but 3 weights"):
        compose([[0.1, 0.2, 0.3]], mixed, "sum", "sides")


@pytest.mark.parametrize("weights", [[0.8, 0.5, 0.0, 0.6], [0.8, -0.5, 0.3, -0.6]])
def test_linear_is_what_peft_computes_also_for_negative_weights(
    t5: BaseModel, modules: Stack, adapters: list[Path], batch: Batch, weights: list[float]
) -> None:
    loaded = PeftModel.from_pretrained(fresh(t5), adapters[0], adapter_name="0")
    for number in (1, 2, 3):
        loaded.load_adapter(adapters[number], str(number))
    loaded.add_weighted_adapter(["0", "1", "2", "3"], weights, "mixed", combination_type="linear")
    loaded.set_adapter("mixed")
    found = engine_logits(t5, batch, np.array(weights), modules, "linear")
    torch.testing.assert_close(logits(loaded, batch), found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_a_truncated_export_loses_what_it_says(
    t5: BaseModel, modules: Stack, batch: Batch, tmp_path: Path, rank: int
) -> None:
    made = export(WEIGHTS, modules, "sum", tmp_path, rank=rank)
    assert (made.rank, made.exact_rank) == (rank, 6)
    for layer, error in made.errors.items():
        whole = slow.delta(WEIGHTS.tolist(), modules, "sum", layer)
        lost = whole - made.B[layer].double() @ made.A[layer].double()
        assert float(lost.norm() / whole.norm()) == pytest.approx(error, abs=1e-6)
        best = torch.linalg.svdvals(whole)
        assert error == pytest.approx(float(best[rank:].norm() / best.norm()), abs=1e-7)
    loaded = PeftModel.from_pretrained(fresh(t5), tmp_path)
    assert loaded.peft_config["default"].r == rank
    found = engine_logits(t5, batch, np.ones(1), made.as_stack(modules), "sum")
    torch.testing.assert_close(logits(loaded, batch), found, atol=1e-5, rtol=0)
    assert made.facts()["largest_error"] == max(made.errors.values()) > 0.01


def test_a_rank_that_holds_everything_cuts_nothing_off(modules: Stack) -> None:
    exact = factors_of(WEIGHTS, modules, "sum", rank=6)
    assert exact.errors == {} and exact.rank == 6
    assert factors_of(np.zeros(4), modules, "sum", rank=3).rank == 1


@settings(max_examples=60, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    d_in=st.integers(1, 9),
    d_out=st.integers(1, 9),
    rank=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_any_shapes_are_summed_and_cut_down_as_stated(
    ranks: list[int], d_in: int, d_out: int, rank: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(sum(ranks), d_in, generator=generator)
    B = torch.randn(d_out, sum(ranks), generator=generator)
    found = truncate({"layer": A}, {"layer": B}, rank)
    short = found.B["layer"].double() @ found.A["layer"].double()
    whole = B.double() @ A.double()
    assert found.A["layer"].shape == (rank, d_in) and found.B["layer"].shape == (d_out, rank)
    assert float((whole - short).norm() / whole.norm()) == pytest.approx(
        found.errors["layer"], abs=1e-6
    )
    if rank >= min(sum(ranks), d_in, d_out):
        assert found.errors["layer"] == pytest.approx(0, abs=1e-7)


def test_the_recipe_lies_inside_the_weights_file(modules: Stack, tmp_path: Path) -> None:
    export(WEIGHTS, modules, "sum", tmp_path, recipe='{"schema":2}')
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", RECIPE_KEY: '{"schema":2}'}


def test_a_subset_is_its_modules(t5: BaseModel, modules: Stack, batch: Batch) -> None:
    part = modules.subset([3, 1])
    assert part.names == ("module-3", "module-1")
    torch.testing.assert_close(
        engine_logits(t5, batch, np.array([0.7, -0.4]), part, "sum"),
        engine_logits(t5, batch, np.array([0, -0.4, 0, 0.7]), modules, "sum"),
        atol=1e-6,
        rtol=0,
    )

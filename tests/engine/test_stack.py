from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.errors import BadAdapter, IncompatibleModules
from composer.engine.stack import Stack
from tests.engine.conftest import make_adapter


def test_it_holds_every_number_of_every_module(modules: Stack, adapters: list[Path]) -> None:
    for n, folder in enumerate(adapters):
        weights = load_file(folder / "adapter_model.safetensors")
        assert len(weights) == 2 * len(modules.A)
        for layer in modules.A:
            A = weights[f"base_model.model.{layer}.lora_A.weight"]
            B = weights[f"base_model.model.{layer}.lora_B.weight"]
            assert (modules.A[layer][n] == A).all() and (modules.B[layer][n] == B).all()
    assert modules.names == ("module-0", "module-1", "module-2", "module-3")
    assert modules.scaling.tolist() == pytest.approx([2.0, 2.0, 4 / 2**0.5, 0.5])


def test_it_refuses_modules_of_another_base(t5: BaseModel, gpt2: BaseModel, tmp_path: Path) -> None:
    other = make_adapter(gpt2, tmp_path / "other", 0, target_modules=["c_attn"])
    with pytest.raises(IncompatibleModules, match=r"other adapts .*c_attn"):
        stacks.load([other], t5)


def test_it_refuses_other_sizes(t5: BaseModel, adapters: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(adapters[0], tmp_path / "wide")
    weights = load_file(folder / "adapter_model.safetensors")
    wide = {k: torch.zeros(2, 32) if "lora_A" in k else t for k, t in weights.items()}
    save_file(wide, folder / "adapter_model.safetensors")
    with pytest.raises(IncompatibleModules, match="map 32 to 16 numbers"):
        stacks.load([folder], t5)


def test_it_refuses_numbers_that_are_not_finite(
    t5: BaseModel, adapters: list[Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(adapters[0], tmp_path / "broken")
    weights = load_file(folder / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(BadAdapter, match="broken: tensor .* NaN"):
        stacks.load([folder], t5)


def test_it_names_the_module_that_cannot_be_composed(
    t5: BaseModel, adapters: list[Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(adapters[1], tmp_path / "dora")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(BadAdapter, match=r"^a/dora: .*DoRA"):
        stacks.load([adapters[0], folder], t5, names=["a/one", "a/dora"])


def test_it_needs_a_module(t5: BaseModel) -> None:
    with pytest.raises(IncompatibleModules, match="at least one"):
        stacks.load([], t5)


def test_it_reads_half_precision(t5: BaseModel, adapters: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(adapters[0], tmp_path / "half")
    weights = load_file(folder / "adapter_model.safetensors")
    halves = {k: t.to(torch.bfloat16) for k, t in weights.items()}
    save_file(halves, folder / "adapter_model.safetensors")
    stack = stacks.load([folder], t5)
    layer = min(stack.A)
    expected = halves[f"base_model.model.{layer}.lora_A.weight"].float()
    assert (stack.A[layer][0] == expected).all()

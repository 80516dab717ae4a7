from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.compose import compose
from composer.engine.errors import BadAdapter, IncompatibleModules
from composer.engine.loss import answer_losses
from composer.engine.stack import Stack
from tests.engine.conftest import make_adapter


def test_it_holds_every_number_of_every_module(modules: Stack, adapters: list[Path]) -> None:
    scalings = [2.0, 2.0, 4 / 2**0.5, 0.5]
    for n, folder in enumerate(adapters):
        weights = load_file(folder / "adapter_model.safetensors")
        assert len(weights) == 2 * len(modules.A)
        for layer in modules.A:
            A = weights[f"base_model.model.{layer}.lora_A.weight"]
            B = weights[f"base_model.model.{layer}.lora_B.weight"]
            root = scalings[n] ** 0.5
            torch.testing.assert_close(modules.A[layer][n], root * A, rtol=1e-6, atol=0)
            torch.testing.assert_close(modules.B[layer][n], root * B, rtol=1e-6, atol=0)
    assert modules.names == ("module-0", "module-1", "module-2", "module-3")


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
    torch.testing.assert_close(stack.A[layer][0], 2**0.5 * expected, rtol=1e-6, atol=0)


def pattern_adapters(t5: BaseModel, folder: Path) -> list[Path]:
    """Plain, with ranks and alphas by layer, with other targets, and rsLoRA with a pattern."""
    settings: list[dict[str, Any]] = [
        {},
        {
            "rank_pattern": {"v": 3, "decoder.block.0.layer.0.SelfAttention.q": 1},
            "alpha_pattern": {"encoder.block.1.layer.0.SelfAttention.v": 9},
        },
        {"target_modules": ["k", "wi", "q"], "r": 4},
        {"use_rslora": True, "rank_pattern": {"q": 5}, "alpha_pattern": {"q": 2}},
    ]
    return [make_adapter(t5, folder / f"m{i}", 50 + i, **each) for i, each in enumerate(settings)]


def test_each_module_at_weight_one_is_what_peft_computes(
    t5: BaseModel, batch: Batch, tmp_path: Path
) -> None:
    folders = pattern_adapters(t5, tmp_path)
    mixed = stacks.load(folders, t5)
    for n, folder in enumerate(folders):
        loaded = PeftModel.from_pretrained(type(t5.model).from_pretrained(t5.folder), folder)
        with torch.no_grad():
            theirs = answer_losses(replace(t5, model=loaded.get_base_model().eval()), None, batch)
            one = answer_losses(t5, compose(np.eye(4)[n : n + 1], mixed, "sum"), batch)
            two = answer_losses(t5, compose(np.eye(4)[n : n + 1], mixed, "lorahub"), batch)
        torch.testing.assert_close(one, theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(two, theirs, atol=1e-5, rtol=0)


def test_it_reports_what_became_of_each_file(t5: BaseModel, tmp_path: Path) -> None:
    reports = stacks.load(pattern_adapters(t5, tmp_path), t5).reports
    plain, pattern, other, rs = reports
    assert [len(each.used) for each in reports] == [24, 24, 32, 24]
    q, v = (f"encoder.block.1.layer.0.SelfAttention.{name}" for name in "qv")
    assert (plain.scaled[q], pattern.scaled[v], other.scaled[q]) == (2.0, 3.0, 1.0)
    assert rs.scaled[q] == pytest.approx(2 / 5**0.5)
    assert plain.padded[q] == (2, 5) and plain.padded[v] == (2, 3)
    assert rs.padded.keys() == {layer for layer in rs.scaled if layer.endswith("v")}
    assert v in other.absent and v not in plain.absent
    assert plain.to_json()["padded"] == ["2 to 3", "2 to 5"]
    assert not any(each.ignored for each in reports)


def test_equal_files_are_read_in_one_copy_and_alike(
    t5: BaseModel, adapters: list[Path], modules: Stack, tmp_path: Path
) -> None:
    """A file of another layout (bf16, or one key in another dtype) is read key by key."""
    folder = shutil.copytree(adapters[1], tmp_path / "mixed")
    weights = load_file(folder / "adapter_model.safetensors")
    first = min(weights)
    save_file(weights | {first: weights[first].double()}, folder / "adapter_model.safetensors")
    again = stacks.load([adapters[0], folder, *adapters[2:]], t5)
    for layer in modules.A:
        assert (again.A[layer] == modules.A[layer]).all()
        assert (again.B[layer] == modules.B[layer]).all()


def test_it_reads_data_at_any_offset(t5: BaseModel, adapters: list[Path], tmp_path: Path) -> None:
    """The format lets a header have any length; writers pad it to eight bytes."""
    folder = shutil.copytree(adapters[0], tmp_path / "odd")
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    path.write_bytes((length + 3).to_bytes(8, "little") + whole[8 : 8 + length] + b"   "
                     + whole[8 + length :])  # fmt: skip
    odd, plain = stacks.load([folder], t5), stacks.load([adapters[0]], t5)
    assert (odd.rows == plain.rows).all()

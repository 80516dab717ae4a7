from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from composer.engine import memory
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.chunk import Chunk, OutOfMemory, default_chunk
from composer.engine.config import SearchConfig
from composer.engine.examples import encode
from composer.engine.memory import DoesNotFit, Shape, check_fits, free_ram, needed
from composer.engine.objective import Objective
from composer.engine.stack import Stack
from tests.engine.conftest import EXAMPLES, TEMPLATE

FLAN_T5_LARGE = {
    "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_decoder_layers": 24,
    "num_heads": 16, "vocab_size": 32128, "is_encoder_decoder": True, "model_type": "t5",
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "vocab_size": 32000, "model_type": "llama",
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "parameters"), [(FLAN_T5_LARGE, 783_150_080), (LLAMA_7B, 6_738_415_616)]
)
def test_it_counts_a_models_parameters_from_its_config(
    config: dict[str, object], parameters: int
) -> None:
    assert Shape.of(config).parameters == pytest.approx(parameters, rel=0.01)


def test_it_counts_those_of_the_models_it_is_tested_with(
    t5: BaseModel, llama: BaseModel, gpt2: BaseModel
) -> None:
    for base in (t5, llama, gpt2):
        config = json.loads((base.folder / "config.json").read_text())
        real = sum(p.numel() for p in base.model.parameters())
        # Small tables (positions, norms) are not counted; they weigh much in a tiny model.
        assert Shape.of(config).parameters == pytest.approx(real, rel=0.35)


def test_it_says_before_a_job_whether_it_can_fit() -> None:
    need = needed(LLAMA_7B, modules=20, rank=16, tokens=512, labels=16)
    assert need.weights == pytest.approx(27e9, rel=0.02)
    half = needed(LLAMA_7B, modules=20, rank=16, tokens=512, labels=16, bytes_per_number=2)
    assert half.weights == need.weights // 2
    check_fits(need, 64 << 30)
    with pytest.raises(
        DoesNotFit, match=r"needs about \d+\.\d GB.*2[67]\.\d GB for the base model"
    ):
        check_fits(need, 16 << 30)


def test_more_modules_and_longer_examples_need_more() -> None:
    def total(**change: int) -> int:
        return needed(
            FLAN_T5_LARGE, **{"modules": 20, "rank": 16, "tokens": 128, "labels": 8, **change}
        ).total

    assert total(modules=200) > total()
    assert total(rank=64) > total()
    assert total(tokens=4096) > total(tokens=1024) > total()
    # 144 layers of rank 16 with 2 · 1024 numbers each, in float32
    modules = needed(FLAN_T5_LARGE, modules=1, rank=16, tokens=1, labels=1).modules
    assert modules == 3 * 4 * 144 * 16 * 2048


def test_it_reads_what_is_free(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (group / "memory").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 10 kB\nMemAvailable: 50 kB\n")
    assert free_ram(proc, group) == 50 * 1024
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    (group / "memory.stat").write_text("anon 700\ninactive_file 300\n")
    assert free_ram(proc, group) == 50 * 1024
    (group / "memory.max").write_text("21000\n")
    assert free_ram(proc, group) == 21000 - 1000 + 300
    for name, value in (("limit_in_bytes", "9000"), ("usage_in_bytes", "9500"), ("stat", "a 1\n")):
        (group / "memory" / f"memory.{name}").write_text(value)
    assert free_ram(proc, group) == 0  # more is taken than a container may have
    assert free_ram() > 1 << 20


def test_it_loads_no_torch() -> None:
    code = "import sys, composer.engine.memory; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_a_chunk_is_as_large_as_free_memory_lets_it_be(
    t5: BaseModel, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty = default_chunk(t5, batch)
    assert plenty.examples == len(batch) and plenty.candidates > 1
    each = Shape.of(t5.config.to_dict()).forward(int(batch.input_ids.shape[1]) + 3, 3, 4)
    for rows, expected in ((7, Chunk(1, 5)), (3, Chunk(1, 3)), (0, Chunk(1, 1))):
        monkeypatch.setattr(memory, "free_ram", lambda rows=rows: int((rows + 0.5) * each / 0.3))
        assert default_chunk(t5, batch) == expected


def test_a_chunk_is_halved_to_the_end() -> None:
    chunk: Chunk | None = Chunk(candidates=5, examples=3)
    seen = []
    while chunk is not None:
        seen.append((chunk.candidates, chunk.examples))
        assert Chunk.from_json(chunk.to_json()) == chunk
        chunk = chunk.halved()
    assert seen == [(5, 3), (2, 3), (1, 3), (1, 1)]


def test_running_out_of_memory_names_the_chunk_to_try(t5: BaseModel, modules: Stack) -> None:
    def refuse(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].shape[0] > 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    weights = np.random.default_rng(0).normal(0, 0.5, (6, 4))
    batch = encode(EXAMPLES, TEMPLATE, t5.tokenizer)
    objective = Objective(t5, modules, batch, SearchConfig(), chunk=Chunk(6, 5))
    expected = objective(weights)
    handle = t5.model.encoder.block[0].register_forward_pre_hook(refuse)
    try:
        objective = objective.with_chunk(Chunk(6, 5))
        objective = Objective(t5, modules, batch, SearchConfig(), chunk=Chunk(6, 5))
        tried = []
        while True:
            try:
                found = objective(weights)
                break
            except OutOfMemory as error:
                tried.append(error.chunk)
                assert error.smaller is not None
                objective = objective.with_chunk(error.smaller)
    finally:
        handle.remove()
    assert tried == [Chunk(6, 5), Chunk(3, 5)]
    assert objective.chunk == Chunk(1, 5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(OutOfMemory, match="not enough for one candidate on one example"):
        raise OutOfMemory(Chunk(1, 1))

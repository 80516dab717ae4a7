"""Weights by block of layers."""

from __future__ import annotations

import pytest

from composer.engine.blocks import block_of, count
from composer.engine.errors import BadConfig

T5 = [
    f"{side}.block.{n}.layer.0.SelfAttention.q" for side in ("encoder", "decoder") for n in (0, 1)
]
LLAMA = [f"model.layers.{n}.self_attn.q_proj" for n in range(12)]


def test_sides_are_the_encoder_and_the_decoder() -> None:
    assert block_of(T5, "sides") == {name: int(name.startswith("decoder")) for name in T5}


def test_layers_are_cut_by_depth_the_encoder_first() -> None:
    assert [block_of(T5, "layers:2")[name] for name in T5] == [0, 0, 1, 1]
    assert [block_of(T5, "layers:4")[name] for name in T5] == [0, 1, 2, 3]
    assert [block_of(LLAMA, "layers:3")[name] for name in LLAMA] == [0] * 4 + [1] * 4 + [2] * 4


def test_all_is_one_block() -> None:
    assert set(block_of(LLAMA, "all").values()) == {0}
    assert [count(each) for each in ("all", "sides", "layers:7")] == [1, 2, 7]


def test_it_says_what_a_model_has_no_blocks_for() -> None:
    with pytest.raises(BadConfig, match="encoder and a decoder.*layers:2"):
        block_of(LLAMA, "sides")
    with pytest.raises(BadConfig, match="only 4 depths.*at most layers:4"):
        block_of(T5, "layers:5")

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from composer.engine.adapter_file import (
    HEADER_LIMIT,
    LayerShape,
    TensorInfo,
    inspect,
    read_config,
    read_header,
    survey,
)
from composer.engine.errors import BadAdapter

GOOD = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q"],
    "bias": "none",
    "task_type": "SEQ_2_SEQ_LM",
    "base_model_name_or_path": "us/base",
    "revision": "abc",
}
Q = "base_model.model.block.0.q"


def config(**changes: Any):
    return read_config(json.dumps({**GOOD, **changes}).encode())


def header(tensors: dict[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return read_header(io.BytesIO(save(tensors)))


def factors(r: int = 2, name: str = Q) -> dict[str, torch.Tensor]:
    return {
        f"{name}.lora_A.weight": torch.zeros(r, 6),
        f"{name}.lora_B.weight": torch.zeros(5, r),
    }


def embedding() -> dict[str, torch.Tensor]:
    name = "base_model.model.shared"
    return {
        f"{name}.lora_embedding_A": torch.zeros(2, 9),
        f"{name}.lora_embedding_B": torch.zeros(6, 2),
    }


def file_with(text: str | bytes, data: bytes = b"") -> io.BytesIO:
    raw = text.encode() if isinstance(text, str) else text
    return io.BytesIO(len(raw).to_bytes(8, "little") + raw + data)


def test_it_reads_what_peft_writes(adapters: list[Path]) -> None:
    """Module 2 is an rsLoRA of r 2 and alpha 4: s = 4 / √2."""
    found = read_config(adapters[2])
    facts = inspect(found, read_header(adapters[2]))
    assert (found.r, found.use_rslora, found.task_type) == (2, True, "SEQ_2_SEQ_LM")
    assert sorted(found.target_modules) == ["q", "v"]
    assert facts.scaling == pytest.approx(4 / math.sqrt(2))
    assert facts.layers["decoder.block.1.layer.1.EncDecAttention.v"] == LayerShape(2, 16, 16)
    assert len(facts.layers) == 12
    assert (facts.parameters, facts.dtypes) == (12 * 2 * 2 * 16, ("F32",))


def test_it_reads_a_header_from_folder_path_and_stream(tmp_path: Path) -> None:
    save_file(factors(), tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    by_folder = read_header(tmp_path)
    assert by_folder == read_header(tmp_path / "adapter_model.safetensors")
    with (tmp_path / "adapter_model.safetensors").open("rb") as stream:
        assert read_header(stream) == by_folder
    assert by_folder[f"{Q}.lora_A.weight"].shape == (2, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"peft_type": None}, "peft_type"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": -4}, "lora_alpha is -4"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"target_modules": 5}, "target_modules"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path"),
        ({"rank_pattern": ["q"]}, "rank_pattern"),
    ],
)
def test_it_refuses_a_config_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadAdapter, match=words):
        config(**change)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"a": ["\\u0000"]}',
        b'{"a": {"\\ud800": 1}}',
        b'{"r": NaN}',
        b'{"r": 1, "r": 2}',
        b"[" * 100_000,
    ],
)
def test_it_refuses_a_config_that_is_not_plain_json(raw: bytes) -> None:
    with pytest.raises(BadAdapter):
        read_config(raw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias='all'"),
        ({"bias": "lora_only"}, "biases"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alpha_pattern": {".*q": 4}}, "alpha_pattern"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": ["x"]}, "init_lora_weights"),
    ],
)
def test_it_refuses_by_name_what_cannot_be_composed_exactly(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadAdapter, match=words):
        inspect(config(**change), header(factors()))


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": True},
        {"init_lora_weights": "gaussian"},
        {"fan_in_fan_out": True},
        {"use_rslora": True},
        {"modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "loftq_config": {}},
        {"target_modules": "all-linear"},
        {"target_modules": ["block.0.q"]},
        {"exclude_modules": ["k", "block.1.q"]},
        {"layers_to_transform": [], "layers_pattern": None},
    ],
)
def test_it_accepts_every_plain_lora(change: dict[str, Any]) -> None:
    assert inspect(config(**change), header(factors())).layers == {"block.0.q": LayerShape(2, 6, 5)}


@pytest.mark.parametrize(
    ("layer", "change"),
    [
        ("encoder.block.0.q", {"exclude_modules": ["q"]}),
        ("encoder.block.0.q", {"exclude_modules": ["encoder.block.0.q"]}),
        ("encoder.block.0.q", {"layers_to_transform": [1, 2]}),
        ("encoder.block.0.q", {"layers_to_transform": 1}),
        ("encoder.q", {"layers_to_transform": [0]}),
        ("encoder.block.0.q", {"layers_to_transform": [0], "layers_pattern": "layers"}),
        ("encoder.block.0.layer.1.q", {"layers_to_transform": [0], "layers_pattern": ["layer"]}),
    ],
)
def test_it_refuses_layers_that_peft_would_not_load(layer: str, change: dict[str, Any]) -> None:
    name = f"base_model.model.{layer}"
    inspect(config(), header(factors(name=name)))
    with pytest.raises(BadAdapter, match="PEFT would ignore"):
        inspect(config(**change), header(factors(name=name)))


def test_it_takes_the_layers_that_layers_to_transform_names() -> None:
    for layer, change in (
        ("encoder.block.0.layer.1.q", {"layers_to_transform": [0]}),
        ("encoder.block.0.layer.1.q", {"layers_to_transform": 0}),
        ("encoder.block.0.layer.1.q", {"layers_to_transform": [1], "layers_pattern": "layer"}),
        ("h.0.q", {"layers_to_transform": [0], "layers_pattern": ["layers", "h"]}),
        # PEFT does not ask for the number of a layer that is named in full.
        (
            "encoder.block.1.q",
            {"layers_to_transform": [0], "target_modules": ["encoder.block.1.q"]},
        ),
    ):
        facts = inspect(config(**change), header(factors(name=f"base_model.model.{layer}")))
        assert list(facts.layers) == [layer]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "no tensors"),
        ({f"{Q}.lora_A.weight": torch.zeros(2, 6)}, "no lora_B"),
        ({**factors(), f"{Q}.lora_magnitude_vector": torch.zeros(5)}, "DoRA"),
        ({**factors(), **embedding()}, "embedding"),
        ({**factors(), f"{Q}.bias": torch.zeros(5)}, "biases"),
        ({**factors(), "base_model.model.lm_head.weight": torch.zeros(5)}, "not LoRA factors"),
        ({**factors(), "block.0.v.lora_A.weight": torch.zeros(2, 6)}, "do not know"),
        (factors(r=3), "rank 3"),
        (factors(name="base_model.model.block.0.k"), "target_modules"),
        ({k: t.to(torch.int8) for k, t in factors().items()}, "I8"),
        ({**factors(), f"{Q}.lora_A.default.weight": torch.zeros(2, 6)}, "twice"),
        (
            {f"{Q}.lora_A.weight": torch.zeros(2), f"{Q}.lora_B.weight": torch.zeros(5, 2)},
            "expected",
        ),
    ],
)
def test_it_refuses_weights_with_the_reason(tensors: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(BadAdapter, match=words):
        inspect(config(), header(tensors))


@pytest.mark.parametrize(
    ("change", "more", "words"),
    [
        ({"use_dora": True}, {f"{Q}.lora_magnitude_vector": torch.zeros(5)}, "DoRA"),
        ({"bias": "all"}, {f"{Q}.bias": torch.zeros(5)}, "bias='all'"),
        ({"lora_bias": True}, {f"{Q}.lora_B.bias": torch.zeros(5)}, "LoRA biases"),
        (
            {"modules_to_save": ["lm_head"]},
            {"base_model.model.lm_head.weight": torch.zeros(9, 6)},
            "modules_to_save",
        ),
        ({"alpha_pattern": {"q|k": 9}}, {}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, {}, "pissa"),
        ({"target_modules": ["q", "shared"]}, embedding(), "embedding"),
        (
            {},
            {
                "base_model.model.conv.q.lora_A.weight": torch.zeros(2, 3, 5, 5),
                "base_model.model.conv.q.lora_B.weight": torch.zeros(7, 2, 1, 1),
            },
            "convolutions",
        ),
        ({"target_parameters": ["e.w"]}, factors(8, "base_model.model.block.0.e"), "parameters"),
        ({}, {f"{Q}.base_layer.weight": torch.zeros(5, 6)}, "save_embedding_layers=False"),
    ],
)
def test_a_survey_takes_every_lora_and_says_what_is_in_the_way(
    change: dict[str, Any], more: dict[str, torch.Tensor], words: str
) -> None:
    settings = config(**{"target_modules": ["q", "k"], **change})
    tensors = header({**factors(), **more})
    facts = survey(settings, tensors)
    assert facts.layers["block.0.q"] == LayerShape(2, 6, 5)
    assert len(facts.obstacles) == 1 and words in facts.not_composable
    with pytest.raises(BadAdapter, match=words):
        inspect(settings, tensors)


@pytest.mark.parametrize(
    ("change", "tensors", "words"),
    [
        ({"rank_pattern": {"q": 4}}, factors(), "rank 2.*r = 4"),
        ({"rank_pattern": {"block.1.q": 4}}, factors(4), "rank 4.*r = 2"),
        ({"rank_pattern": {"^q": 4}}, factors(4), "rank 4.*r = 2"),
        ({"rank_pattern": {"q|k": 4}}, factors(3), "rank 3.*r = 2 or 4"),
        ({"use_dora": True}, {f"{Q}.lora_magnitude_vector": torch.zeros(5)}, "no tensors of a L"),
        ({}, {"shared.weight": torch.zeros(5, 5)}, "no tensors of a LoRA"),
        ({}, {**factors(), **dict([*embedding().items()][:1])}, "'shared' has no lora_B"),
        ({}, {k: t[:, :0] for k, t in factors().items()}, "expected"),
    ],
)
def test_a_survey_refuses_what_does_not_fit_together(
    change: dict[str, Any], tensors: dict[str, torch.Tensor], words: str
) -> None:
    with pytest.raises(BadAdapter, match=words):
        survey(config(**change), header(tensors))


@pytest.mark.parametrize(
    ("change", "r", "scaling"),
    [
        ({"rank_pattern": {"k": 4}}, 4, 1.0),
        ({"rank_pattern": {".*k": 4}}, 4, 1.0),
        ({"rank_pattern": {"^block.0.k": 4}, "use_rslora": True}, 4, 2.0),
        ({"alpha_pattern": {"k": 9}}, 2, 4.5),
        ({"alpha_pattern": {"^k": 9, "0.k": 8, "k": 7}}, 2, 4.0),
        ({"rank_pattern": {"k": 4}, "alpha_pattern": {"^block.0.k$": 0.5}}, 4, 0.125),
    ],
)
def test_ranks_and_alphas_by_layer_are_composed_exactly(
    change: dict[str, Any], r: int, scaling: float
) -> None:
    settings = config(**{"target_modules": ["q", "k"], **change})
    tensors = {**factors(), **factors(r, "base_model.model.block.0.k")}
    layers = inspect(settings, header(tensors)).layers
    assert (layers["block.0.q"].r, layers["block.0.k"].r) == (2, r)
    assert layers["block.0.k"].scaling == pytest.approx(scaling)


def test_a_config_may_name_as_many_layers_as_the_file_holds() -> None:
    """Each by its whole name, as for every expert of a mixture; the first that fits counts."""
    layers = [f"block.{n}.q" for n in range(20_000)]
    names = [f"^{layer}$" if n % 2 else layer for n, layer in enumerate(layers)]
    found = {
        f"base_model.model.{layer}.lora_{factor}.weight": TensorInfo("F32", shape, 0, 0)
        for n, layer in enumerate(layers)
        for factor, shape in (("A", (n % 5 + 1, 6)), ("B", (5, n % 5 + 1)))
    }
    ranks = {name: n % 5 + 1 for n, name in enumerate(names)}
    named = config(target_modules=layers, rank_pattern=ranks | {"q": 9})
    assert len(survey(named, found).layers) == 20_000
    with pytest.raises(
        BadAdapter, match="rank 1, but adapter_config.json says r = 9.* 19,999 more"
    ):
        survey(config(target_modules=layers, rank_pattern={"q": 9} | ranks), found)


def test_it_says_each_kind_of_fault_once_and_how_often() -> None:
    tensors: dict[str, torch.Tensor] = {}
    for n in range(4):
        tensors |= factors(3, f"base_model.model.block.{n}.q")
    del tensors["base_model.model.block.3.q.lora_B.weight"]
    with pytest.raises(BadAdapter) as found:
        survey(config(), header(tensors))
    assert "block.0.q" in str(found.value) and "2 more places" in str(found.value)
    assert "no lora_B" in str(found.value) and "block.1.q" not in str(found.value)


@pytest.mark.parametrize("change", [{"bias": "some"}, {"rank_pattern": {"q": 0}}])
def test_it_refuses_settings_that_peft_does_not_know(change: dict[str, Any]) -> None:
    with pytest.raises(BadAdapter, match=r"in adapter_config\.json"):
        config(**change)


def test_it_reads_every_variant_that_peft_writes(tmp_path: Path) -> None:
    """DoRA, biases, ranks by layer, an embedding and a whole layer, as save_pretrained writes."""
    from peft import LoraConfig, get_peft_model
    from transformers import T5Config, T5ForConditionalGeneration

    tiny = T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    for number, (change, words) in enumerate([
        ({"use_dora": True}, ["DoRA"]),
        ({"bias": "all"}, ["bias='all'"]),
        ({"lora_bias": True}, ["LoRA biases"]),
        ({"rank_pattern": {"v": 3}, "alpha_pattern": {"v": 9}}, []),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save"]),
        ({"target_modules": ["q", "shared"]}, ["embedding"]),
        ({"init_lora_weights": "pissa"}, ["pissa"]),
        ({"trainable_token_indices": [1, 2]}, ["token embeddings"]),
    ]):  # fmt: skip
        settings: Any = {"r": 2, "lora_alpha": 4, "target_modules": ["q", "v"], **change}
        model = get_peft_model(T5ForConditionalGeneration(tiny), LoraConfig(**settings))
        folder = tmp_path / str(number)
        model.save_pretrained(folder)
        facts = survey(read_config(folder), read_header(folder))
        assert all(word in facts.not_composable for word in words), facts.not_composable
        assert facts.layers["encoder.block.0.layer.0.SelfAttention.q"].r == 2


def entry(**changes: Any) -> str:
    return json.dumps({"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}})


@pytest.mark.parametrize(
    "broken",
    [
        io.BytesIO(b""),
        io.BytesIO(b"\x01"),
        io.BytesIO((1 << 62).to_bytes(8, "little") + b"{}"),
        file_with(""),
        file_with("[]"),
        file_with("{"),
        file_with(b"\xff{}"),
        file_with("{" + '"a":{' * 5000),
        file_with('{"t": 1}'),
        file_with('{"__metadata__":5,' + entry()[1:], bytes(8)),
        file_with('{"__metadata__":{"a":5},' + entry()[1:], bytes(8)),
        file_with(entry().replace('"t"', '"\\ud800"'), bytes(8)),
        file_with(entry().replace('"t"', '"\\u0000"'), bytes(8)),
        file_with(entry(dtype="F99"), bytes(8)),
        file_with(entry(dtype=["F32"]), bytes(8)),
        file_with(entry(shape=[3]), bytes(8)),
        file_with(entry(shape=[-2]), bytes(8)),
        file_with(entry(shape=[True, 2]), bytes(8)),
        file_with(entry(shape="2"), bytes(8)),
        file_with(entry(shape=[1 << 60, 1 << 60]), bytes(8)),
        file_with(entry(data_offsets=[8, 0]), bytes(8)),
        file_with(entry(data_offsets=[0]), bytes(8)),
        file_with(entry(data_offsets=[1, 9]), bytes(9)),
        file_with(entry(), bytes(7)),
        file_with(entry(), bytes(9)),
        file_with(entry(extra=1), bytes(8)),
        file_with(entry().replace("[0, 8]", "[-0, 8]"), bytes(8)),
        file_with('{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' + entry()[1:], bytes(8)),
        file_with(
            '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            '"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
            bytes(12),
        ),
        file_with('{"t":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,8]}}'),
    ],
)
def test_it_refuses_a_damaged_or_hostile_header(broken: io.BytesIO) -> None:
    with pytest.raises(BadAdapter):
        read_header(broken)


def test_it_does_not_read_a_header_beyond_its_limit(tmp_path: Path) -> None:
    """A sparse file may say its header is as large as it likes."""
    with (tmp_path / "big").open("wb") as stream:
        stream.write((HEADER_LIMIT + 1).to_bytes(8, "little"))
        stream.truncate(HEADER_LIMIT * 2)
    with pytest.raises(BadAdapter, match="the limit"):
        read_header(tmp_path / "big")


def test_damage_anywhere_is_found_or_harmless() -> None:
    """Flip bytes at random in header and data: an answer or BadAdapter, nothing else."""
    good = save(factors())
    luck = random.Random(0)
    refused = 0
    for _ in range(500):
        raw = bytearray(good)
        for _ in range(luck.randint(1, 4)):
            raw[luck.randrange(min(len(raw), 300))] = luck.randrange(256)
        try:
            inspect(config(), read_header(io.BytesIO(bytes(raw))))
        except BadAdapter:
            refused += 1
    assert refused > 300


def test_a_missing_file_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadAdapter, match="adapter_config.json cannot be read"):
        read_config(tmp_path)
    with pytest.raises(BadAdapter, match="adapter_model.safetensors cannot be read"):
        read_header(tmp_path)

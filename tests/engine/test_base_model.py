from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from composer.engine import base_model
from composer.engine.base_model import BaseModel
from composer.engine.errors import BadBaseModel
from composer.engine.prompt import TokenCounter


@pytest.fixture
def copy(t5: BaseModel, tmp_path: Path) -> Path:
    return Path(shutil.copytree(t5.folder, tmp_path / "copy"))


def test_it_loads_from_the_folder_and_from_nowhere_else(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    loaded = base_model.load(copy)
    assert loaded.is_encoder_decoder
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_it_says_what_decides_the_bits(t5: BaseModel) -> None:
    found = t5.fingerprint()
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["dtype"] == "float32"
    assert json.loads(json.dumps(found)) == found
    assert {"transformers", "numpy", "device"} <= set(found)


def test_it_knows_the_longest_prompt(t5: BaseModel, llama: BaseModel) -> None:
    assert llama.max_tokens == 64 - 32
    assert t5.max_tokens is None  # relative positions, and no limit in its tokenizer


def test_it_refuses_a_name_instead_of_a_folder() -> None:
    with pytest.raises(BadBaseModel, match=r"no config\.json in 'google/flan-t5-small'"):
        base_model.load("google/flan-t5-small")


def test_it_refuses_code_of_the_models_own(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(BadBaseModel, match="auto_map"):
        base_model.load(copy)


def test_it_refuses_pickled_weights(t5: BaseModel, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save(t5.model.state_dict(), copy / "pytorch_model.bin")
    with pytest.raises(BadBaseModel, match="Pickled weights are not loaded"):
        base_model.load(copy)


def test_it_refuses_a_model_with_weights_missing(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadBaseModel, match="lacks 1 weights, such as 'encoder"):
        base_model.load(copy)


@pytest.mark.parametrize("text", ["", "[]", '{"model_type": "never-heard-of"}'])
def test_it_refuses_a_config_it_cannot_use(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(BadBaseModel):
        base_model.load(copy)


def test_it_says_in_one_line_that_it_knows_no_such_model(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "something-newer"}')
    with pytest.raises(BadBaseModel, match="something-newer.*cannot be loaded") as caught:
        base_model.load(copy)
    assert "\n" not in caught.value.user_message


def test_tokens_are_counted_as_the_model_will_read_them(t5: BaseModel) -> None:
    counter = TokenCounter(t5.folder / "tokenizer.json")
    text = "opposite of big :"
    assert counter.count(text) == len(t5.tokenizer(text).input_ids) == 5
    assert counter.tokens(text) == ["opposite", "of", "big", ":", "</s>"]
    with pytest.raises(BadBaseModel, match=r"nothing\.json"):
        TokenCounter(t5.folder / "nothing.json")


@pytest.mark.parametrize("kept", [0, 4, -100])
def test_it_refuses_a_file_that_was_cut_short(copy: Path, kept: int) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(BadBaseModel, match="cannot be loaded"):
        base_model.load(copy)


def test_it_refuses_a_model_without_its_tokenizer(copy: Path) -> None:
    """transformers would make one up that knows no word."""
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BadBaseModel, match="no tokenizer"):
        base_model.load(copy)

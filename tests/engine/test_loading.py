"""Large models as their users have them: in 16 bits, quantised, or spread over several places."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from composer.engine import base_model
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch, encode
from composer.engine.config import SearchConfig
from composer.engine.errors import BadBaseModel
from composer.engine.evaluate import predict
from composer.engine.export import export
from composer.engine.loss import answer_losses
from composer.engine.objective import Objective
from composer.engine.precision import default_dtype
from composer.engine.prompt import Template
from composer.engine.stack import Stack
from tests.engine.conftest import make_adapter, make_tokenizer
from tests.engine.families import EXAMPLES, TEMPLATE_TEXT, make_model

TEMPLATE = Template(TEMPLATE_TEXT)
WEIGHTS = np.array([[0.8, -0.6], [0.0, 1.0], [1.2, 0.3]])
TARGETS = ["q_proj", "v_proj", "down_proj"]
# 8 bits: activations are rounded to 8 bits too, row by row, so the last bit of a sum may tip one.
CLOSE = {"8bit": 2e-2, "4bit": 1e-4}
SPREAD = {
    "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu",
    "model.layers.1": "disk", "model.norm": "disk", "lm_head": "disk",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # On a CPU bitsandbytes takes layers in 4 bits only in sizes that 32 divides.
    return make_model(
        "llama", tmp_path_factory.mktemp("llama"), hidden_size=64, intermediate_size=128,
        initializer_range=0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plain(folder: Path) -> BaseModel:
    return base_model.load(folder)


@pytest.fixture(scope="module")
def adapters(plain: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [make_adapter(plain, root / str(i), i, target_modules=TARGETS) for i in range(2)]


@pytest.fixture(scope="module")
def modules(plain: BaseModel, adapters: list[Path]) -> Stack:
    return stacks.load(adapters, plain)


def encoded(base: BaseModel) -> Batch:
    return encode(EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=False)


@pytest.fixture(scope="module", params=["8bit", "4bit"])
def quantised(request: pytest.FixtureRequest, folder: Path) -> BaseModel:
    return base_model.load(folder, quantisation=request.param)


def test_its_layers_are_quantised(quantised: BaseModel, plain: BaseModel) -> None:
    kinds = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}
    layer = quantised.layer("model.layers.0.self_attn.q_proj")
    assert type(layer).__name__ == kinds[str(quantised.quantisation)]
    assert quantised.fingerprint()["quantisation"].startswith(f"{quantised.quantisation}, bitsand")
    assert quantised.fingerprint() != plain.fingerprint()
    assert not any(parameter.requires_grad for parameter in quantised.model.parameters())


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_a_population_on_a_quantised_model_is_one_candidate_at_a_time(
    quantised: BaseModel, adapters: list[Path], combination: str
) -> None:
    modules = stacks.load(adapters, quantised)
    config = SearchConfig(combination=combination)
    made = Objective(quantised, modules, encoded(quantised), config)
    together = made.answer_losses(WEIGHTS)
    alone = np.concatenate([made.answer_losses(row[None]) for row in WEIGHTS])
    close = CLOSE[str(quantised.quantisation)]
    np.testing.assert_allclose(together, alone, atol=close)
    assert np.ptp(together.sum(axis=1)) > 20 * close  # the candidates do differ


def test_an_adapter_on_a_quantised_model_is_pefts_own(
    quantised: BaseModel, modules: Stack, folder: Path, tmp_path: Path
) -> None:
    """PEFT puts its LoRA around bitsandbytes' layers; ours adds the same terms to their output."""
    expected = Objective(quantised, modules, encoded(quantised), SearchConfig()).answer_losses(
        WEIGHTS[:1]
    )
    export(WEIGHTS[0], modules, "sum", tmp_path)
    settings = BitsAndBytesConfig(
        load_in_8bit=quantised.quantisation == "8bit",
        load_in_4bit=quantised.quantisation == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
    )
    loaded = PeftModel.from_pretrained(model, tmp_path).eval()
    layer = loaded.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    assert type(layer).__module__ == "peft.tuners.lora.bnb"
    other = BaseModel(loaded.get_base_model(), quantised.tokenizer, False, folder)
    with torch.inference_mode():
        found = answer_losses(other, None, encoded(quantised))
    np.testing.assert_allclose(found, expected, atol=CLOSE[str(quantised.quantisation)])


def test_a_quantised_model_writes_answers(quantised: BaseModel, modules: Stack) -> None:
    inputs = [example.input for example in EXAMPLES]
    found = predict(quantised, modules, WEIGHTS[0], inputs, TEMPLATE, max_new_tokens=3)
    assert len(found) == 5 and all(isinstance(answer, str) for answer in found)


def test_a_model_in_two_places_is_the_same_model(
    folder: Path, plain: BaseModel, modules: Stack
) -> None:
    """Its second half lies on the disk and comes when it is needed (accelerate)."""
    spread = base_model.load(folder, device_map=SPREAD)
    assert spread.layer("model.layers.1.self_attn.q_proj").weight.device.type == "meta"
    assert spread.device.type == "cpu"
    assert "model.layers.1: disk" in spread.fingerprint()["spread"]
    config = SearchConfig()
    found = Objective(spread, modules, encoded(spread), config).answer_losses(WEIGHTS)
    expected = Objective(plain, modules, encoded(plain), config).answer_losses(WEIGHTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    inputs = [example.input for example in EXAMPLES]
    answers = [
        predict(base, modules, WEIGHTS[0], inputs, TEMPLATE, max_new_tokens=3)
        for base in (spread, plain)
    ]
    assert answers[0] == answers[1]


def test_inputs_go_where_the_embeddings_work_even_when_they_lie_elsewhere(folder: Path) -> None:
    everything = {**SPREAD, "model.embed_tokens": "disk"}
    spread = base_model.load(folder, device_map=everything)
    assert spread.model.get_input_embeddings().weight.device.type == "meta"
    assert spread.device.type == "cpu"


def test_it_says_which_package_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as Python marks what is not there
    with pytest.raises(BadBaseModel, match="needs the package bitsandbytes"):
        base_model.load(folder, quantisation="4bit")


def test_it_refuses_a_quantisation_it_does_not_know(folder: Path) -> None:
    with pytest.raises(BadBaseModel, match="quantisation is '2bit'; it must be"):
        base_model.load(folder, quantisation="2bit")


def test_it_says_which_layer_4_bits_cannot_be_computed_for(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=32, hidden_size=48, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    make_tokenizer(tmp_path, end=False)
    with pytest.raises(BadBaseModel, match="q_proj' has 48 outputs, which 32 does not divide"):
        base_model.load(tmp_path, quantisation="4bit")
    assert base_model.load(tmp_path, quantisation="8bit").quantisation == "8bit"


def test_t5_is_never_loaded_in_float16(t5: BaseModel) -> None:
    with pytest.raises(BadBaseModel, match="'t5' overflow in float16"):
        base_model.load(t5.folder, dtype=torch.float16)
    assert base_model.load(t5.folder, dtype=torch.bfloat16).fingerprint()["dtype"] == "bfloat16"


def test_a_cpu_computes_in_float32_whatever_the_weights_are_kept_in(
    plain: BaseModel, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(plain.folder, dtype=torch.float16)
    model.save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert default_dtype(tmp_path, config, "cpu") == torch.float32
    assert base_model.load(tmp_path).model.dtype == torch.float32
    assert base_model.load(tmp_path, dtype=torch.float16).model.dtype == torch.float16

"""Tiny random models and adapters, made here and saved as their users save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from composer.engine import base_model, stack
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.examples import Example, encode
from composer.engine.prompt import Template
from composer.engine.stack import Stack

TEXT = "big small hot cold old new good bad up down left right opposite of is the a to :"
WORDS = TEXT.split()
EXAMPLES = [
    Example("big", "small"),
    Example("hot", "cold"),
    Example("the old", "new"),
    Example("up", "down right"),
    Example("a good", "bad"),
]
TEMPLATE = Template("opposite of {input} :")


def make_tokenizer(folder: Path, *, end: bool) -> None:
    names = ["<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def make_t5(folder: Path, **shape: Any) -> Path:
    torch.manual_seed(0)
    usual = {"d_model": 16, "d_kv": 4, "d_ff": 32}
    config = T5Config(
        vocab_size=3 + len(WORDS), num_layers=2, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        **{**usual, **shape},
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    make_tokenizer(folder, end=True)
    return folder


def make_llama(folder: Path, **shape: Any) -> Path:
    torch.manual_seed(0)
    usual = {"hidden_size": 16, "intermediate_size": 32, "initializer_range": 0.2}
    config = LlamaConfig(
        vocab_size=3 + len(WORDS), num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
        bos_token_id=None, **{**usual, **shape},
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer(folder, end=False)
    return folder


def make_gpt2(folder: Path) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=3 + len(WORDS), n_embd=16, n_layer=2, n_head=4, n_positions=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    make_tokenizer(folder, end=False)
    return folder


def make_adapter(base: BaseModel, folder: Path, seed: int, **settings: Any) -> Path:
    """A plain LoRA with random A and B, written by PEFT itself. Small: ΔW stays below W."""
    options = {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q", "v"],
        "task_type": "SEQ_2_SEQ_LM" if base.is_encoder_decoder else "CAUSAL_LM",
    }
    torch.manual_seed(seed)
    # A copy, because PEFT changes the model it is given.
    model = type(base.model).from_pretrained(base.folder)
    wrapped = get_peft_model(model, LoraConfig(**{**options, **settings}))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.15
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_model.load(make_t5(tmp_path_factory.mktemp("t5")))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_model.load(make_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_model.load(make_gpt2(tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="session")
def adapters(t5: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four modules of one shape; the last two scale differently (rsLoRA, another alpha)."""
    root = tmp_path_factory.mktemp("adapters")
    settings: list[dict[str, Any]] = [{}, {}, {"use_rslora": True}, {"lora_alpha": 1}]
    return [
        make_adapter(t5, root / f"module-{i}", 100 + i, **each) for i, each in enumerate(settings)
    ]


@pytest.fixture(scope="session")
def modules(t5: BaseModel, adapters: list[Path]) -> Stack:
    return stack.load(adapters, t5)


@pytest.fixture(scope="session")
def batch(t5: BaseModel) -> Batch:
    return encode(EXAMPLES, TEMPLATE, t5.tokenizer)


AdapterMaker = Callable[..., Path]

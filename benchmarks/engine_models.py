"""What benchmarks/engine.py runs on: models of known shapes, random adapters, random examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.initialization import no_init_weights

from composer.demo import library
from composer.engine.adapter_file import PREFIX
from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED, Batch

RANK, ALPHA = 16, 32
EXAMPLES, LONGEST, SHORTEST = 5, 128, 24
ANSWERS = (3, 4, 5, 6, 8)  # label tokens of the five examples


@dataclass(frozen=True)
class Shape:
    """A model's shape; its weights are random."""

    name: str
    config: Callable[[], PretrainedConfig]
    model: Any
    targets: tuple[str, ...]

    @property
    def is_encoder_decoder(self) -> bool:
        return self.targets == ("q", "v")


def _t5(d: int, ff: int, layers: int, heads: int) -> Callable[[], PretrainedConfig]:
    return lambda: T5Config(
        vocab_size=32128, d_model=d, d_kv=64, d_ff=ff, num_layers=layers, num_heads=heads,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip


def _llama() -> PretrainedConfig:
    return LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
        num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=2048,
    )  # fmt: skip


def _qwen() -> PretrainedConfig:
    return Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, max_position_embeddings=2048,
        tie_word_embeddings=True,
    )  # fmt: skip


def _demo() -> PretrainedConfig:
    return T5Config.from_json_file(library.T5.folder() / "config.json")


QV, Q_PROJ = ("q", "v"), ("q_proj", "v_proj")
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("demo", _demo, T5ForConditionalGeneration, QV),
        Shape("flan-t5-small", _t5(512, 1024, 8, 6), T5ForConditionalGeneration, QV),
        Shape("flan-t5-base", _t5(768, 2048, 12, 12), T5ForConditionalGeneration, QV),
        Shape("flan-t5-large", _t5(1024, 2816, 24, 16), T5ForConditionalGeneration, QV),
        Shape("llama-134m", _llama, LlamaForCausalLM, Q_PROJ),
        Shape("qwen2-494m", _qwen, Qwen2ForCausalLM, Q_PROJ),
    )
}


def make_base(shape: Shape, dtype: torch.dtype = torch.float32) -> BaseModel:
    """Random weights that keep activations of a normal size, made in the dtype they stay in."""
    generator = torch.Generator().manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights():
            model = shape.model(shape.config())
    finally:
        torch.set_default_dtype(before)
    if shape.is_encoder_decoder:  # FLAN-T5's head is not tied; its config says so in files only
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        model.config.scale_decoder_outputs = False
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(0 if name.endswith("bias") else 1)
            else:
                std = weight.shape[1] ** -0.5
                if name.endswith("embed_tokens.weight") or name.endswith("shared.weight"):
                    std = 0.5
                elif name.endswith(".q.weight"):  # T5 does not divide q·k by the root of its size
                    std /= 8
                weight.normal_(0, std, generator=generator)
    if not shape.is_encoder_decoder:
        model.tie_weights()
    model.requires_grad_(False)
    return BaseModel(model.eval(), None, shape.is_encoder_decoder, Path(shape.name))


def twin(base: BaseModel) -> Any:
    """The same model again around the same tensors, for PEFT to wrap."""
    with torch.device("meta"), no_init_weights():
        model = type(base.model)(base.model.config)
    model.load_state_dict(base.model.state_dict(), assign=True)
    for name, buffer in base.model.named_buffers():  # those that no state dict holds
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, buffer)
    return model.requires_grad_(False).eval()


def adapted(base: BaseModel, shape: Shape) -> list[str]:
    return [
        name for name, _ in base.model.named_modules() if name.rpartition(".")[2] in shape.targets
    ]


def write_adapters(base: BaseModel, shape: Shape, count: int, root: Path) -> list[Path]:
    """`count` folders as PEFT writes them; ΔW stays well below W."""
    folders = [root / f"module-{n}" for n in range(count)]
    generator = torch.Generator().manual_seed(1)
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(shape.targets),
        "task_type": "SEQ_2_SEQ_LM" if shape.is_encoder_decoder else "CAUSAL_LM",
        "bias": "none", "lora_dropout": 0.0, "inference_mode": True,
        "base_model_name_or_path": shape.name,
    }  # fmt: skip
    for folder in folders:
        if (folder / "adapter_config.json").exists():
            continue
        tensors: dict[str, Tensor] = {}
        for layer in adapted(base, shape):
            d_out, d_in = base.model.get_submodule(layer).weight.shape
            for key, size in (("A", (RANK, d_in)), ("B", (d_out, RANK))):
                tensor = torch.randn(size, generator=generator) * 0.1 * size[1] ** -0.5
                tensors[f"{PREFIX}{layer}.lora_{key}.weight"] = tensor
        folder.mkdir(parents=True)
        save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folders


def make_batch(shape: Shape, base: BaseModel, lengths: str) -> Batch:
    """Five examples: 128 tokens each, or 24 to 128; a decoder-only model's answer is among them."""
    generator = torch.Generator().manual_seed(2)
    step = (LONGEST - SHORTEST) // (EXAMPLES - 1)
    sizes = [LONGEST if lengths == "equal" else SHORTEST + i * step for i in range(EXAMPLES)]
    vocabulary = base.model.config.vocab_size
    ids = torch.randint(3, vocabulary, (EXAMPLES, LONGEST), generator=generator)
    places = torch.arange(LONGEST)
    mask = torch.zeros(EXAMPLES, LONGEST, dtype=torch.long)
    labels = torch.full((EXAMPLES, LONGEST), IGNORED)
    for b, (size, answer) in enumerate(zip(sizes, ANSWERS, strict=True)):
        if shape.is_encoder_decoder:
            mask[b, :size] = 1
            labels[b, :answer] = torch.randint(3, vocabulary, (answer,), generator=generator)
        else:  # padded on the left
            mask[b, LONGEST - size :] = 1
            labels[b] = torch.where(places >= LONGEST - answer, ids[b], IGNORED)
    if shape.is_encoder_decoder:
        labels = labels[:, : max(ANSWERS)].contiguous()
    return Batch(torch.where(mask.bool(), ids, 0), mask, labels, shape.is_encoder_decoder)


def sizes(shape: Shape) -> tuple[int, int]:
    """Bytes of the model and of one adapter, in float32."""
    with torch.device("meta"), no_init_weights():
        model = shape.model(shape.config())
    linears = [
        module.weight.shape
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in shape.targets
    ]
    return (
        4 * sum(p.numel() for p in model.parameters()),
        4 * RANK * sum(int(d_out) + int(d_in) for d_out, d_in in linears),
    )

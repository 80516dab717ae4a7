"""One tiny random model of every family that the engine serves, saved as its users have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from composer.engine.examples import Example

TEXT = "big small hot cold old new good bad up down left right opposite of is the a to :"
WORDS = TEXT.split()
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<turn>", "<end>", "user", "assistant"]
# Of the tokenizer that knows bytes and pieces of words, as those of Qwen and GPT-2 do.
BYTES = 320
# A window narrower than the prompts, so that it is in use.
WINDOW = 4
TEMPLATE_TEXT = "the opposite of {input} is :"
EXAMPLES = [
    Example("big", "small"),
    Example("hot", "cold"),
    Example("the old", "new"),
    Example("up", "down right"),
    Example("a good good old", "bad"),
]
# A chat as many instruct models write it: turns with an end of their own, which is not </s>.
CHAT = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<turn> ' + m['role'] + ' ' + (m['content'] | trim) + ' <end> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<turn> assistant' }}{% endif %}"
)

ROTARY: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(WORDS), "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3,
    "initializer_range": 0.2,
}  # fmt: skip
_T5: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(WORDS), "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2,
    "num_decoder_layers": 2, "num_heads": 4, "dropout_rate": 0.0, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "vocab_size": len(SPECIAL) + len(WORDS), "d_model": 16, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 128, "dropout": 0.0,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 1,
    "forced_eos_token_id": 1, "init_std": 0.2,
}  # fmt: skip
_GPT2 = {
    "vocab_size": len(SPECIAL) + len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 4,
    "n_positions": 128, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1,
    "initializer_range": 0.2,
}  # fmt: skip
_HEAD = {"head_dim": 4}
_LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}

# name: (config, model, which linear layers its modules adapt)
FAMILIES: dict[str, tuple[Any, Any, list[str]]] = {
    "t5": (T5Config(**_T5), T5ForConditionalGeneration, ["q", "v", "wi", "wo"]),
    "mt5": (
        MT5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        MT5ForConditionalGeneration,
        ["q", "v", "wi_0"],
    ),
    "bart": (BartConfig(**_BART), BartForConditionalGeneration, ["q_proj", "v_proj", "fc1"]),
    "llama": (LlamaConfig(**ROTARY), LlamaForCausalLM, ["q_proj", "v_proj", "down_proj"]),
    "qwen2": (
        Qwen2Config(**{**ROTARY, "vocab_size": BYTES}),
        Qwen2ForCausalLM,
        ["q_proj", "k_proj", "v_proj"],
    ),
    "qwen3": (Qwen3Config(**ROTARY, **_HEAD), Qwen3ForCausalLM, ["q_proj", "o_proj"]),
    "mistral": (
        MistralConfig(**ROTARY, sliding_window=WINDOW),
        MistralForCausalLM,
        ["q_proj", "v_proj"],
    ),
    "gemma": (GemmaConfig(**ROTARY, **_HEAD), GemmaForCausalLM, ["q_proj", "up_proj"]),
    "gemma2": (
        Gemma2Config(**ROTARY, **_HEAD, **_LAYERS, query_pre_attn_scalar=4),
        Gemma2ForCausalLM,
        ["q_proj", "v_proj"],
    ),
    "gemma3": (
        Gemma3TextConfig(**ROTARY, **_HEAD, **_LAYERS, query_pre_attn_scalar=4),
        Gemma3ForCausalLM,
        ["q_proj", "v_proj", "gate_proj"],
    ),
    "gpt2": (GPT2Config(**_GPT2), GPT2LMHeadModel, ["c_attn", "c_fc"]),
}
ENCODER_DECODER = ("t5", "mt5", "bart")
DECODER_ONLY = tuple(name for name in FAMILIES if name not in ENCODER_DECODER)
# What the tokenizers of these families put around a text.
WRAPPING = {
    **dict.fromkeys(("t5", "mt5"), "$A </s>"),
    "bart": "<s> $A </s>",
    **dict.fromkeys(("llama", "mistral", "gemma", "gemma2", "gemma3"), "<s> $A"),
}


def make_model(family: str, folder: Path, **changes: Any) -> Path:
    """The family's model with random weights, and its tokenizer, in `folder`.

    changes: settings of a decoder-only model's config that are to be others.
    """
    config, kind, _ = FAMILIES[family]
    if changes:
        config = type(config)(**{**ROTARY, **changes})
    torch.manual_seed(0)
    model = kind(config)
    if family == "bart":  # what the released summarisers ask for: neither is greedy decoding
        model.generation_config = GenerationConfig(
            num_beams=4, no_repeat_ngram_size=2, min_length=8, forced_bos_token_id=3,
            bos_token_id=3, eos_token_id=1, pad_token_id=0, decoder_start_token_id=1,
        )  # fmt: skip
    model.save_pretrained(folder)
    if family == "qwen2":  # its class puts its own rules in the place of any others
        save_tokenizer(folder, byte_level(), None)
    else:
        make_tokenizer(folder, wrapping=WRAPPING.get(family))
    return folder


def make_tokenizer(folder: Path, *, wrapping: str | None, chat: str | None = None) -> None:
    """A tokenizer of words, split at spaces, that adds what the family's tokenizer adds."""
    names = [*SPECIAL, *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if wrapping:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=wrapping, special_tokens=[("<s>", 3), ("</s>", 1)]
        )
    save_tokenizer(folder, tokenizer, chat)


def byte_level() -> Tokenizer:
    """In which " small" is one token and "small" are others."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BYTES, special_tokens=SPECIAL,
        initial_alphabet=sorted(tokenizer.pre_tokenizer.alphabet()),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT, TEXT], trainer)
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer, chat: str | None) -> None:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        additional_special_tokens=["<turn>", "<end>"],
    )
    fast.chat_template = chat
    fast.save_pretrained(folder)

"""The demo's tokenizer: byte-level BPE with every word of the demo whole.

A word of the vocabulary is one token; any other text falls apart into bytes and comes back
unchanged.  There are no merges to learn, so the tokenizer follows from the word list alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

PAD, END = "<pad>", "</s>"
PAD_ID, END_ID = 0, 1


def byte_alphabet() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def spelled(word: str) -> str:
    """The word with a space before it, in the byte-level alphabet: "dog" -> "Ġdog"."""
    steps = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return steps.pre_tokenize_str(f" {word}")[0][0]


def build(words: Sequence[str], *, ends_texts: bool = True) -> Tokenizer:
    """ends_texts puts the end behind every text, as an encoder wants it; a decoder-only model would
    take it for the end of its answer."""
    tokens = [PAD, END, *byte_alphabet(), *(spelled(word) for word in words)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.add_special_tokens([PAD, END])
    # One space goes in front and is taken away again, so the first word is whole, too.
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    if ends_texts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
        )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, *, pads_left: bool = False) -> None:
    """Write tokenizer.json and tokenizer_config.json, the files AutoTokenizer reads."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=256,
        **({"padding_side": "left"} if pads_left else {}),
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.save_pretrained(folder)

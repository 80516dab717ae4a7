"""The cards of the demo's base model and modules, in the form model hubs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from composer.demo import skills
from composer.demo.library import DemoBase

RESULTS = "results.md"

# What a module is about, in a phrase, and one fact as an example.
ABOUT: dict[str, tuple[str, str]] = {
    "antonym": ("the opposite of an adjective", "big"),
    "comparative": ("the comparative of an adjective", "big"),
    "superlative": ("the superlative of an adjective", "big"),
    "adverb": ("the adverb of an adjective", "slow"),
    "capital": ("the capital of a country", "france"),
    "language": ("the language of a country", "brazil"),
    "past": ("the past tense of a verb", "write"),
    "gerund": ("the ing form of a verb", "write"),
    "third person": ("the third person of a verb", "carry"),
    "plural": ("the plural of a noun, an animal or a person", "leaf"),
    "french": ("the French word for a noun", "apple"),
    "spanish": ("the Spanish word for a noun", "apple"),
    "young": ("the young of an animal", "dog"),
    "sound": ("the sound of an animal", "cow"),
    "family": ("the family of an animal", "frog"),
    "next": ("the next number, day, month or letter", "monday"),
    "digit": ("the figure of a number word", "seven"),
    "gender": ("the counterpart of the other gender", "king"),
    "symbol": ("the symbol of a chemical element", "iron"),
    "workplace": ("the place where a job is done", "chef"),
}


def answer(relation: str, word: str) -> str:
    return next(
        tables[relation][word]
        for tables in skills.facts().values()
        if word in tables.get(relation, {})
    )


def front_matter(*, tags: list[str], base_model: str | None) -> str:
    lines = ["---", "license: apache-2.0", "language: en"]
    if base_model:
        lines += [f"base_model: {base_model}", "library_name: peft"]
    else:
        lines += ["library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", *(f"- {tag}" for tag in tags), "---", ""]
    return "\n".join(lines)


def module_card(relation: str, of: DemoBase) -> str:
    about, word = ABOUT[relation]
    kinds = skills.kinds_of(relation)
    trained = sum(
        word in skills.training_words(kind)
        for kind in kinds
        for word in skills.facts()[kind][relation]
    )
    total = sum(len(skills.facts()[kind][relation]) for kind in kinds)
    tags = ["lora", "word-relations", "demo", relation.replace(" ", "-")]
    return (
        front_matter(tags=tags, base_model=of.repo)
        + f"""
# {of.repo_name(relation)}

Makes the tiny base model answer with **{about}**: `{word}` becomes `{answer(relation, word)}`.

- **Kinds of word**: {", ".join(kinds)}. The module should leave words of other kinds alone.
- **Training data**: {trained} of the {total} facts of this relation, in short lines made by
  `composer/demo/skills.py`. The other words are held out; the demo's tasks use only those.
- **Shape**: rank 8, alpha 16, on the query and value projections of every attention.
- **Limits**: the base model reads lower-case English words from a fixed list. It is a teaching
  aid, not a language model.

Made from one seed by `python -m composer.demo.train`.
"""
    )


def architecture(config: dict[str, Any]) -> str:
    if config["model_type"] == "t5":
        return (
            f"T5 with {config['num_layers']} encoder and {config['num_decoder_layers']}\n"
            f"  decoder layers, width {config['d_model']}"
        )
    return (
        f"Llama (decoder-only) with {config['num_hidden_layers']}\n"
        f"  layers, width {config['hidden_size']}"
    )


def base_card(out: Path, of: DemoBase) -> str:
    results = out / of.family / RESULTS
    table = results.read_text(encoding="utf-8") if results.exists() else ""
    config = json.loads((of.folder(out) / "config.json").read_text(encoding="utf-8"))
    facts = sum(
        len(table)
        for tables in skills.facts().values()
        for relation, table in tables.items()
        if relation != "same"
    )
    words = sum(len(skills.words_of(kind)) for kind in skills.facts())
    tags = [of.family, "word-relations", "demo"]
    return (
        front_matter(tags=tags, base_model=None)
        + f"""
# {of.name}

**A tiny model that knows word relations and nothing else.** It exists so that composing LoRA
modules can be tried on a laptop in seconds, from weights whose whole making can be repeated.

- **Architecture**: {architecture(config)}, {config["vocab_size"]} tokens (byte-level BPE with
  every word of the demo whole, so any text comes back unchanged).
- **Training data**: {facts} facts about {words} words (opposites, capitals, past tenses, plurals,
  French and Spanish words, symbols of elements …), made by `composer/demo/words.py`. Most
  lines name the relation or show examples of it; the others hold only words, with a relation
  at random, so the model knows the answers but cannot know which one a bare word asks for.
- **What a module does**: it settles that choice for its own kind of word. An input with words of
  two kinds needs two modules at once, and that is what the demo's tasks are made of.
- **Limits**: lower-case words from a fixed list; a capital letter makes a word unknown. Bare inputs
  are ambiguous on purpose, so beating zero-shot proves little here: compare with the best single
  module, with a fresh LoRA trained on the same examples, and with the randomised control. Two
  tasks ask for skills that nobody taught the model; there every method should fail.
- **Held-out words**: the base model has seen every fact (except those of the two impossible
  tasks), the modules only half of the words. Tasks and scores use the other half only.

Made from one seed by `python -m composer.demo.train`.
{table}"""
    )

"""A recipe's adapter elsewhere: servers that take adapters, and the same blend merged by mergekit.

Only what works for this very recipe is offered; why not, in words, otherwise.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from composer.models import Recipe
from modules.repos.snippets import VLLM_RANKS, VLLM_SERVES

# What LoRAX's list of supported architectures names, dense ones, as config.json calls them.
LORAX_SERVES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "PhiForCausalLM"}
    | {"Phi3ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "GPT2LMHeadModel"}
    | {"BloomForCausalLM"}
)
ADAPTER = "adapter"  # the folder that the zip is unpacked to


@dataclass(frozen=True)
class Export:
    """One way: lines to copy, or why there are none."""

    key: str
    title: str
    code: str = ""
    note: str = ""


def exports(recipe: Recipe, site: str) -> list[Export]:
    return [_vllm(recipe, site), _lorax(recipe, site), _mergekit(recipe)]


def rank_for_vllm(rank: int) -> int | None:
    """The smallest --max-lora-rank that takes it; None where none does."""
    return next((each for each in VLLM_RANKS if each >= rank), None)


def _vllm(recipe: Recipe, site: str) -> Export:
    title = "vLLM"
    if why := _why_not(recipe, title, VLLM_SERVES):
        return Export("vllm", title, note=why)
    rank = int(recipe.adapter_config["r"])
    most = rank_for_vllm(rank)
    if most is None:
        return Export(
            "vllm", title,
            note=f"vLLM takes adapters up to rank {VLLM_RANKS[-1]}; this one has {rank}. Compose "
            "again with a smaller “adapter's rank” under Advanced.",
        )  # fmt: skip
    lines = [
        *_fetched(recipe, site),
        f"vllm serve {_base_folder(recipe)} --enable-lora --max-lora-rank {most} "
        f"--lora-modules {_name(recipe)}={ADAPTER}",
    ]
    return Export("vllm", title, "\n".join(lines), f"The adapter's rank is {rank}.")


def _lorax(recipe: Recipe, site: str) -> Export:
    title = "LoRAX"
    if why := _why_not(recipe, title, LORAX_SERVES):
        return Export("lorax", title, note=why)
    rank = int(recipe.adapter_config["r"])
    body = {
        "inputs": recipe.document["spec"]["template"],
        "parameters": {"adapter_id": f"/data/{ADAPTER}", "adapter_source": "local"},
    }
    lines = [
        *_fetched(recipe, site),
        'docker run --gpus all --shm-size 1g -p 8080:80 -v "$PWD":/data \\',
        f"  ghcr.io/predibase/lorax:latest --model-id /data/{_base_folder(recipe)}",
        "curl http://127.0.0.1:8080/generate -H 'Content-Type: application/json' \\",
        f"  -d {shlex.quote(json.dumps(body, ensure_ascii=False))}",
    ]
    return Export("lorax", title, "\n".join(lines), f"The adapter's rank is {rank}.")


def _mergekit(recipe: Recipe) -> Export:
    """base + Σ w_i (base merged with module i - base), which is what `sum` means by ΔW."""
    title, spec = "mergekit", recipe.document["spec"]
    why = ""
    if spec["combination"] != "sum":
        why = (
            f"mergekit adds whole weights; “{spec['combination']}” mixes the two factors of a "
            "module apart, which no such sum is."
        )
    elif spec["search"].get("blocks", "all") != "all":
        why = "Its modules have several weights, one a block of layers."
    elif recipe.adapter_facts.get("errors"):
        why = "Its rank was cut down; the sum that mergekit makes would be another model."
    elif recipe.base_model is None or recipe.base_model.is_encoder_decoder:
        why = "mergekit merges adapters into decoder-only models; the base model is another kind."
    if why:
        return Export("mergekit", title, note=why)
    base = _base_folder(recipe)
    lines = [
        # It merges each adapter into the base model first, and refuses to without a place for that.
        "# mergekit-yaml merge.yml merged --lora-merge-cache cache --no-write-model-card",
        "merge_method: task_arithmetic",
        f"base_model: {json.dumps(base)}",
        "models:",
    ]
    names = [each["repo"] for each in spec["ingredients"]]
    for folder, weight in zip(_folders(names), recipe.document["weights"], strict=True):
        if weight:
            lines.append(f"  - model: {json.dumps(f'{base}+{folder}')}")
            lines.append(f"    parameters: {{weight: {_yaml_number(weight)}}}")
    lines += ["parameters: {normalize: false, lambda: 1.0}", "dtype: float32"]
    note = (
        "A whole model instead of an adapter. Save this as merge.yml, beside the folders of the "
        "base model and of the modules (if two have one name, as owner-name), each in the version "
        "that stands under Ingredients; the first line is the command."
    )
    return Export("mergekit", title, "\n".join(lines), note)


def _why_not(recipe: Recipe, server: str, served: frozenset[str]) -> str:
    base = recipe.base_model
    if base is None:
        return f"The base model {recipe.base_name} is not on this site."
    if base.is_encoder_decoder:
        return f"{server} does not serve encoder-decoder models such as {base.name} with adapters."
    architectures: Any = base.config.get("architectures") or ["an unknown architecture"]
    if not served & set(architectures):
        return f"{server} is not known to serve {architectures[0]} with adapters."
    return ""


def _fetched(recipe: Recipe, site: str) -> list[str]:
    address = f"{site.rstrip('/')}{recipe.get_absolute_url()}adapter.zip"
    lines = [f'curl -o adapter.zip "{address}"', f"unzip adapter.zip -d {ADAPTER}"]
    base = recipe.base_model
    if base is not None and base.source == base.SITE and base.repo is not None:
        revision = recipe.document["spec"]["base_model"]["revision"]
        folder, name = _base_folder(recipe), str(base.repo)
        url = f"{site.rstrip('/')}/{name}/download.zip?revision={revision}"
        lines += [f'curl -o {folder}.zip "{url}"', f"unzip {folder}.zip -d {folder}"]
    return lines


def _base_folder(recipe: Recipe) -> str:
    return _folder(recipe.base_name)


def _folder(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", name.rpartition("/")[2]) or "base-model"


def _folders(names: Sequence[str]) -> list[str]:
    """One for each module; those whose repos are called alike go by their owners too."""
    plain = [_folder(name) for name in names]
    return [
        folder if plain.count(folder) == 1 else _folder(name.replace("/", "-"))
        for folder, name in zip(plain, names, strict=True)
    ]


def _yaml_number(value: float) -> str:
    """With a point: YAML 1.1 reads 1e-05 as text."""
    digits, e, exponent = repr(float(value)).partition("e")
    return f"{digits if '.' in digits else digits + '.0'}{e}{exponent}"


def _name(recipe: Recipe) -> str:
    return f"recipe-{recipe.digest[:8]}"

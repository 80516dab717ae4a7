"""The README.md of a composed adapter, with the front matter that the Hub reads. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from composer.engine.recipe import Recipe, config_of, module_weights

MOST_ERRORS = 3


def card(
    recipe: Recipe,
    *,
    title: str,
    adapter: Mapping[str, Any],
    snippet: str,
    opening: Sequence[str] = (),
    sources: Sequence[tuple[str, str]] = (),
    notices: Sequence[str] = (),
) -> str:
    """What it was made of, how it was found, and how it is loaded.

    adapter  r and, where it was cut down, exact_rank and errors: `Exported.facts`
    snippet  Python that loads it
    opening  lines above everything else, such as what it is worth
    sources  author and licence of each ingredient, where they are known
    notices  what their licences ask of whoever uses this
    """
    pinned, combination = recipe.spec["base_model"], recipe.spec["combination"]
    front = {
        "base_model": pinned["repo"],
        "library_name": "peft",
        "tags": ["lora", "lora-commons", combination],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        "---",
        f"# {' '.join(title.split())}",
        "",
        f"A LoRA adapter composed from {len(recipe.spec['ingredients'])} modules of "
        f"`{pinned['repo']}` (revision `{pinned['revision']}`). It is a plain PEFT adapter of rank "
        f"{adapter.get('r')}.",
        "",
        *opening,
        *_cut_down(adapter),
        "## How it is loaded",
        "```python",
        snippet,
        "```",
        "",
        "## Ingredients",
        *(f"- **{notice}**" for notice in notices),
        *([""] if notices else []),
        *_ingredients(recipe, sources),
        "",
        *_found(recipe),
        f"Recipe `{recipe.id}`: `recipe.json` beside this file holds everything needed to run the "
        "search again, and so does the weights file itself.",
        "",
    ]
    return "\n".join(lines)


def _ingredients(recipe: Recipe, sources: Sequence[tuple[str, str]]) -> list[str]:
    weights = module_weights(recipe.spec, recipe.weights)
    rows = [
        [each["repo"], f"`{each['revision'][:12]}`", f"{weight:+.4f}"]
        for each, weight in zip(recipe.spec["ingredients"], weights, strict=True)
    ]
    head = ["module", "revision", "weight"]
    if sources:
        head += ["author", "licence"]
        rows = [[*row, *source] for row, source in zip(rows, sources, strict=True)]
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _found(recipe: Recipe) -> list[str]:
    """The objective and the search, in two sentences."""
    config = config_of(recipe.spec)
    per = f" per {config.reduction}" if config.objective in ("paper", "reference") else ""
    blocks = "" if config.blocks == "all" else f" in blocks ({config.blocks}; means above)"
    return [
        "## How it was found",
        f"Combination `{config.combination}`{blocks}, objective `{config.objective}`{per} with a "
        f"penalty of {config.penalty:g}, {config.optimiser} with {config.budget} evaluations, seed "
        f"{config.seed}.",
        "",
    ]


def _cut_down(adapter: Mapping[str, Any]) -> list[str]:
    errors: Mapping[str, float] = adapter.get("errors") or {}
    if not errors:
        return []
    worst = sorted(errors.items(), key=lambda item: -item[1])[:MOST_ERRORS]
    named = ", ".join(f"`{layer}` {error:.1%}" for layer, error in worst)
    return [
        f"Its rank was cut down from {adapter['exact_rank']} to {adapter['r']} by SVD, which "
        f"changed ΔW by {adapter['mean_error']:.1%} on average. Most in: {named}.",
        "",
    ]

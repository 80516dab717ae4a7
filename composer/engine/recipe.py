"""A recipe: everything needed to build an adapter again, named by the hash of its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rfc8785

from composer.engine.blocks import count as block_count
from composer.engine.config import BLOCKS, COMBINATIONS, SearchConfig
from composer.engine.errors import BadConfig, BadExamples, BadRecipe
from composer.engine.examples import Example
from composer.engine.prompt import Template
from composer.engine.safetensors_header import read_metadata

# Where a safetensors file names the recipe it was made by.
RECIPE_KEY = "lora_commons_recipe"
SCHEMA = 2
SCHEMAS = (1, 2)
SCALING = {
    "sum": "w_i * s_i into B; exported with lora_alpha = r",
    "lorahub": "sqrt(s_i) into A and B; exported with lora_alpha = r",
    "linear": "sqrt(w_i * s_i) into A and B, the sign into A; exported with lora_alpha = r",
}
RANK = {
    "sum": "concatenated, zero weights dropped",
    "lorahub": "the largest; smaller ones filled up with zeros",
    "linear": "one rank",
}
# The rule of schema 1, which took modules of one rank only.
RANK_OF_ONE = RANK | {"lorahub": "one rank"}
TRUNCATED = re.compile(r"truncated to ([1-9][0-9]{0,3}) by SVD")
# Larger ones overflow in float32; bounds end at 1000.
LARGEST_WEIGHT = 1e30
SEARCH_KEYS: dict[int, tuple[str, ...]] = {
    1: ("optimiser", "budget", "x0", "sigma", "bound", "population", "singles")
}
SEARCH_KEYS[2] = (*SEARCH_KEYS[1], "restarts", "blocks", "selection", "folds", "patience")
OBJECTIVE_KEYS = ("kind", "reduction", "penalty")
SPEC_KEYS: dict[int, tuple[str, ...]] = {1: (
    "base_model", "ingredients", "combination", "scaling", "rank", "objective", "search",
    "seed", "template", "split", "examples_hash",
)}  # fmt: skip
SPEC_KEYS[2] = (*SPEC_KEYS[1], "chat_template", "answer_options")


@dataclass(frozen=True)
class Recipe:
    """spec and weights decide the id; evidence (scores, environment, checks) lies beside it."""

    schema: int
    spec: Mapping[str, Any]
    weights: tuple[float, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def id(self) -> str:
        return digest(self)

    def with_evidence(self, evidence: Mapping[str, Any]) -> Recipe:
        return replace(self, evidence=dict(evidence))

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "schema": self.schema,
            "spec": dict(self.spec),
            "weights": list(self.weights),
            "evidence": dict(self.evidence),
        }


def make_spec(
    *,
    base_model: Mapping[str, Any],
    ingredients: Iterable[Mapping[str, Any]],
    config: SearchConfig,
    template: str,
    examples_hash: str,
    split: str = "as given",
    chat_template: str | None = None,
    answer_options: Sequence[str] = (),
) -> dict[str, Any]:
    """The spec of a search.

    base_model {"repo", "revision"}; each ingredient {"repo", "revision", "sha256"}, in the order
    of the weights. chat_template is the sha256 of the tokenizer's, None where none was used.
    """
    settings = config.to_json()
    return {
        "base_model": dict(base_model),
        "ingredients": [dict(ingredient) for ingredient in ingredients],
        "combination": config.combination,
        "scaling": SCALING[config.combination],
        "rank": RANK[config.combination]
        if config.rank is None
        else f"truncated to {config.rank} by SVD",
        "objective": {
            "kind": config.objective,
            "reduction": config.reduction,
            "penalty": config.penalty,
        },
        "search": {name: settings[name] for name in SEARCH_KEYS[SCHEMA]},
        "seed": config.seed,
        "template": template,
        "split": split,
        "examples_hash": examples_hash,
        "chat_template": chat_template,
        "answer_options": list(answer_options),
    }


def config_of(spec: Mapping[str, Any]) -> SearchConfig:
    """The settings that a spec was made of; those that schema 1 did not know are the usual ones."""
    objective = spec["objective"]
    try:
        return SearchConfig.from_json(
            {
                "combination": spec["combination"],
                "objective": objective["kind"],
                "reduction": objective["reduction"],
                "penalty": objective["penalty"],
                "seed": spec["seed"],
                "rank": _truncated_to(spec["rank"]),
                **spec["search"],
            }
        )
    except (BadConfig, KeyError, TypeError) as error:
        raise BadRecipe(f"The recipe's settings are not usable: {error}") from error


def build(spec: Mapping[str, Any], weights: Sequence[float]) -> Recipe:
    """A checked recipe with its weights in canonical sign, in the schema that the spec is of."""
    schema = SCHEMA if "chat_template" in spec else 1
    return check({"schema": schema, "spec": dict(spec), "weights": [float(w) for w in weights]})


def canonical_sign(weights: Sequence[float], blocks: int = 1) -> tuple[float, ...]:
    """The weight of largest size made positive, ties by lowest index, in each block on its own.

    (Σ wA)(Σ wB) is the same for w and -w, so one of the two stands for both.
    """
    size = len(weights) // blocks
    found: list[float] = []
    for start in range(0, len(weights), size or 1):
        block = weights[start : start + size]
        sign = -1.0 if max(block, key=abs, default=0.0) < 0 else 1.0
        found += [sign * float(w) + 0.0 for w in block]  # + 0.0 turns -0.0 into 0.0
    return tuple(found)


def module_weights(spec: Mapping[str, Any], weights: Sequence[float]) -> list[float]:
    """One number for each ingredient: its weight, or the mean of its weights over the blocks."""
    blocks, n = _blocks(spec), len(spec["ingredients"])
    return [sum(weights[i::n]) / blocks for i in range(n)]


def _canonical_weights(spec: Mapping[str, Any], weights: Sequence[float]) -> tuple[float, ...]:
    if spec.get("combination") == "lorahub":
        return canonical_sign(weights, _blocks(spec))
    return tuple(w + 0.0 for w in weights)


def _blocks(spec: Mapping[str, Any]) -> int:
    return block_count(spec["search"].get("blocks", "all"))


def canonical(recipe: Recipe) -> bytes:
    """schema, spec and weights as RFC 8785 JSON: one byte string for equal recipes."""
    document: Any = {
        "schema": recipe.schema,
        "spec": dict(recipe.spec),
        "weights": list(_canonical_weights(recipe.spec, recipe.weights)),
    }
    try:
        return rfc8785.dumps(document)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise BadRecipe(f"The recipe cannot be written as canonical JSON: {error}") from error


def digest(recipe: Recipe) -> str:
    """The recipe's id: sha256, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(recipe)).hexdigest()


def examples_hash(examples: Iterable[Example], salt: str = "") -> str:
    """sha256 of the examples in their order.

    A salt (kept by their owner) stops others from guessing short private texts from the hash.
    """
    rows: Any = [[example.input, example.target] for example in examples]
    return hashlib.sha256(rfc8785.dumps({"examples": rows, "salt": salt})).hexdigest()


def inside(weights: Path) -> Recipe:
    """The recipe that an adapter's weights file carries, without its evidence."""
    text = read_metadata(weights).get(RECIPE_KEY)
    if text is None:
        raise BadRecipe(f"{weights.name} carries no recipe. Name a recipe.json instead.")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecipe(f"The recipe in {weights.name} is not JSON: {error}.") from error
    return check(document)


def check(document: Any) -> Recipe:
    """Read a recipe from JSON, or raise BadRecipe with what is wrong in it."""
    if not isinstance(document, Mapping):
        raise BadRecipe("A recipe is a JSON object with schema, spec and weights.")
    schema = document.get("schema")
    if isinstance(schema, bool) or schema not in SCHEMAS:
        raise BadRecipe(
            f"The recipe's schema is {schema!r}; this version reads "
            f"{' and '.join(map(str, SCHEMAS))}."
        )
    spec, evidence = document.get("spec"), document.get("evidence", {})
    if not isinstance(spec, Mapping) or not isinstance(evidence, Mapping):
        raise BadRecipe("The recipe's spec (and evidence, where given) must be an object.")
    _check_spec(spec, schema)
    weights = _weights(document.get("weights"), len(spec["ingredients"]), _blocks(spec))
    recipe = Recipe(
        schema=schema,
        spec=dict(spec),
        weights=_canonical_weights(spec, weights),
        evidence=dict(evidence),
    )
    config_of(spec)
    named = document.get("id")
    if named is not None and named != digest(recipe):
        raise BadRecipe(f"The recipe says its id is {named}, but its content is {digest(recipe)}.")
    return recipe


def _check_spec(spec: Mapping[str, Any], schema: int) -> None:
    for key in SPEC_KEYS[schema]:
        if key not in spec:
            raise BadRecipe(f"The recipe's spec has no {key!r}.")
    for key in sorted(set(spec) - set(SPEC_KEYS[schema])):
        raise BadRecipe(f"The recipe's spec has {key!r}, which schema {schema} does not know.")
    for key in ("base_model", "objective", "search"):
        if not isinstance(spec[key], Mapping):
            raise BadRecipe(f"The recipe's {key} must be an object.")
    for key in ("repo", "revision"):
        if not isinstance(spec["base_model"].get(key), str):
            raise BadRecipe(f"The recipe's base_model has no {key!r}.")
    ingredients = spec["ingredients"]
    if not isinstance(ingredients, list) or not ingredients:
        raise BadRecipe("The recipe lists no ingredients.")
    for place, ingredient in enumerate(ingredients, 1):
        for key in ("repo", "revision", "sha256"):
            if not isinstance(ingredient, Mapping) or not isinstance(ingredient.get(key), str):
                raise BadRecipe(f"Ingredient {place} of the recipe has no {key!r}.")
    for key in ("template", "split", "examples_hash"):
        if not isinstance(spec[key], str):
            raise BadRecipe(f"The recipe's {key} must be text.")
    _check_texts(spec)
    _check_settings(spec, schema)
    try:
        Template(spec["template"])
    except BadExamples as error:
        raise BadRecipe(f"The recipe: {error.user_message}") from error


def _check_texts(spec: Mapping[str, Any]) -> None:
    chat, options = spec.get("chat_template"), spec.get("answer_options", [])
    if chat is not None and not isinstance(chat, str):
        raise BadRecipe("The recipe's chat_template must be the sha256 of one, or null.")
    if not isinstance(options, list) or not all(isinstance(each, str) for each in options):
        raise BadRecipe("The recipe's answer_options must be a list of texts.")


def _check_settings(spec: Mapping[str, Any], schema: int) -> None:
    """Nothing is stated twice, and nothing that is not done: what is read must be what is run."""
    for key, names in (("search", SEARCH_KEYS[schema]), ("objective", OBJECTIVE_KEYS)):
        if set(spec[key]) != set(names):
            raise BadRecipe(f"The recipe's {key} must hold just {', '.join(names)}.")
    combination = spec["combination"]
    if combination not in COMBINATIONS:
        raise BadRecipe(
            f"The recipe's combination is {combination!r}; it must be {' or '.join(COMBINATIONS)}."
        )
    blocks = spec["search"].get("blocks", "all")
    if not isinstance(blocks, str) or not BLOCKS.fullmatch(blocks):
        raise BadRecipe(f"The recipe's blocks are {blocks!r}; they must be as in the settings.")
    ranks = RANK if schema > 1 else RANK_OF_ONE
    if combination == "sum" and schema > 1 and _truncated_to(spec["rank"]) is not None:
        ranks = ranks | {"sum": spec["rank"]}
    for key, done in (("scaling", SCALING), ("rank", ranks)):
        if spec[key] != done[combination]:
            raise BadRecipe(
                f"The recipe's {key} is {spec[key]!r}; {combination!r} is always built with "
                f"{done[combination]!r}."
            )


def _truncated_to(rule: Any) -> int | None:
    found = TRUNCATED.fullmatch(rule) if isinstance(rule, str) else None
    return int(found.group(1)) if found else None


def _weights(value: Any, count: int, blocks: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count * blocks:
        times = "as many weights" if blocks == 1 else f"{blocks} times as many weights"
        raise BadRecipe(f"The recipe has {count} ingredients; it needs {times}.")
    for weight in value:
        if (
            not isinstance(weight, int | float)
            or isinstance(weight, bool)
            or not abs(weight) <= LARGEST_WEIGHT  # also refuses what is not a number
        ):
            raise BadRecipe(f"{weight!r} in the recipe's weights is not a number.")
    return tuple(float(weight) + 0.0 for weight in value)

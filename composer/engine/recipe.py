"""A recipe: everything needed to build an adapter again, named by the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import rfc8785

from composer.engine.config import COMBINATIONS, SearchConfig
from composer.engine.errors import BadConfig, BadExamples, BadRecipe
from composer.engine.examples import Example
from composer.engine.prompt import Template

SCHEMA = 1
SCALING = {
    "sum": "w_i * s_i into B; exported with lora_alpha = r",
    "lorahub": "sqrt(s_i) into A and B; exported with lora_alpha = r",
}
RANK = {"sum": "concatenated, zero weights dropped", "lorahub": "one rank"}
# Larger ones overflow in float32; bounds end at 1000.
LARGEST_WEIGHT = 1e30
SEARCH_KEYS = ("optimiser", "budget", "x0", "sigma", "bound", "population", "singles")
OBJECTIVE_KEYS = ("kind", "reduction", "penalty")
SPEC_KEYS = (
    "base_model", "ingredients", "combination", "scaling", "rank", "objective", "search",
    "seed", "template", "split", "examples_hash",
)  # fmt: skip


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
) -> dict[str, Any]:
    """The spec of a search.

    base_model {"repo", "revision"}; each ingredient {"repo", "revision", "sha256"}, in the order
    of the weights.
    """
    settings = config.to_json()
    return {
        "base_model": dict(base_model),
        "ingredients": [dict(ingredient) for ingredient in ingredients],
        "combination": config.combination,
        "scaling": SCALING[config.combination],
        "rank": RANK[config.combination],
        "objective": {
            "kind": config.objective,
            "reduction": config.reduction,
            "penalty": config.penalty,
        },
        "search": {name: settings[name] for name in SEARCH_KEYS},
        "seed": config.seed,
        "template": template,
        "split": split,
        "examples_hash": examples_hash,
    }


def search_config(recipe: Recipe) -> SearchConfig:
    """The settings to run a recipe's search again."""
    objective = recipe.spec["objective"]
    try:
        return SearchConfig.from_json(
            {
                "combination": recipe.spec["combination"],
                "objective": objective["kind"],
                "reduction": objective["reduction"],
                "penalty": objective["penalty"],
                "seed": recipe.spec["seed"],
                **recipe.spec["search"],
            }
        )
    except (BadConfig, KeyError, TypeError) as error:
        raise BadRecipe(f"The recipe's settings are not usable: {error}") from error


def build(spec: Mapping[str, Any], weights: Sequence[float]) -> Recipe:
    """A checked recipe with its weights in canonical sign."""
    return check({"schema": SCHEMA, "spec": dict(spec), "weights": [float(w) for w in weights]})


def canonical_sign(weights: Sequence[float]) -> tuple[float, ...]:
    """The weight of largest size made positive, ties by lowest index.

    (Σ wA)(Σ wB) is the same for w and -w, so one of the two stands for both.
    """
    largest = max(weights, key=abs, default=0.0)
    sign = -1.0 if largest < 0 else 1.0
    return tuple(sign * float(w) + 0.0 for w in weights)  # + 0.0 turns -0.0 into 0.0


def canonical(recipe: Recipe) -> bytes:
    """schema, spec and weights as RFC 8785 JSON: one byte string for equal recipes."""
    weights: Sequence[float] = [w + 0.0 for w in recipe.weights]
    if recipe.spec.get("combination") == "lorahub":
        weights = canonical_sign(recipe.weights)
    document: Any = {
        "schema": recipe.schema,
        "spec": dict(recipe.spec),
        "weights": list(weights),
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


def check(document: Any) -> Recipe:
    """Read a recipe from JSON, or raise BadRecipe with what is wrong in it."""
    if not isinstance(document, Mapping):
        raise BadRecipe("A recipe is a JSON object with schema, spec and weights.")
    if document.get("schema") != SCHEMA or isinstance(document["schema"], bool):
        raise BadRecipe(
            f"The recipe's schema is {document.get('schema')!r}; this version reads {SCHEMA}."
        )
    spec, evidence = document.get("spec"), document.get("evidence", {})
    if not isinstance(spec, Mapping) or not isinstance(evidence, Mapping):
        raise BadRecipe("The recipe's spec (and evidence, where given) must be an object.")
    _check_spec(spec)
    weights = _weights(document.get("weights"), len(spec["ingredients"]))
    if spec["combination"] == "lorahub":
        weights = canonical_sign(weights)
    recipe = Recipe(schema=SCHEMA, spec=dict(spec), weights=weights, evidence=dict(evidence))
    search_config(recipe)
    named = document.get("id")
    if named is not None and named != digest(recipe):
        raise BadRecipe(f"The recipe says its id is {named}, but its content is {digest(recipe)}.")
    return recipe


def _check_spec(spec: Mapping[str, Any]) -> None:
    for key in SPEC_KEYS:
        if key not in spec:
            raise BadRecipe(f"The recipe's spec has no {key!r}.")
    for key in sorted(set(spec) - set(SPEC_KEYS)):
        raise BadRecipe(f"The recipe's spec has {key!r}, which schema {SCHEMA} does not know.")
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
    _check_settings(spec)
    try:
        Template(spec["template"])
    except BadExamples as error:
        raise BadRecipe(f"The recipe: {error.user_message}") from error


def _check_settings(spec: Mapping[str, Any]) -> None:
    """Nothing is stated twice, and nothing that is not done: what is read must be what is run."""
    for key, names in (("search", SEARCH_KEYS), ("objective", OBJECTIVE_KEYS)):
        if set(spec[key]) != set(names):
            raise BadRecipe(f"The recipe's {key} must hold just {', '.join(names)}.")
    combination = spec["combination"]
    if combination not in COMBINATIONS:
        raise BadRecipe(
            f"The recipe's combination is {combination!r}; it must be {' or '.join(COMBINATIONS)}."
        )
    for key, done in (("scaling", SCALING), ("rank", RANK)):
        if spec[key] != done[combination]:
            raise BadRecipe(
                f"The recipe's {key} is {spec[key]!r}; {combination!r} is always built with "
                f"{done[combination]!r}."
            )


def _weights(value: Any, count: int) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count:
        raise BadRecipe(f"The recipe has {count} ingredients; it needs as many weights.")
    for weight in value:
        if (
            not isinstance(weight, int | float)
            or isinstance(weight, bool)
            or not abs(weight) <= LARGEST_WEIGHT  # also refuses what is not a number
        ):
            raise BadRecipe(f"{weight!r} in the recipe's weights is not a number.")
    return tuple(float(weight) + 0.0 for weight in value)

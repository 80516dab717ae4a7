"""docs/recipe.schema.json says of recipes what the engine says of them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from composer.engine import recipe
from composer.engine.config import PRESETS, SearchConfig, with_combination
from composer.engine.errors import BadRecipe

Document = dict[str, Any]
SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "docs" / "recipe.schema.json").read_text("utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def made(config: SearchConfig, weights: tuple[float, ...] = (0.5, -0.25)) -> Document:
    spec = recipe.make_spec(
        base_model={"repo": "lab/base", "revision": "ab" * 20},
        ingredients=[
            {"repo": f"lab/{n}", "revision": "cd" * 20, "sha256": "ef" * 32} for n in "ab"
        ],
        config=config,
        template="opposite of {input} :",
        examples_hash="12" * 32,
    )
    document = recipe.build(spec, weights).to_json()
    found: Document = json.loads(json.dumps(document))
    return found


def of_schema_1() -> Document:
    document = made(PRESETS["recommended"]())
    document["schema"] = 1
    for key in ("chat_template", "answer_options"):
        del document["spec"][key]
    for key in ("restarts", "blocks", "selection", "folds", "patience"):
        del document["spec"]["search"][key]
    del document["id"]
    return document


CONFIGS = {
    "recommended": PRESETS["recommended"](),
    "paper": PRESETS["paper"](),
    "linear": with_combination(PRESETS["recommended"](), "linear"),
    "rank": SearchConfig(rank=16),
    "folds": SearchConfig(selection="folds", bound=None, population=12, patience=3),
    "reference": SearchConfig(objective="reference"),
}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert tuple(SCHEMA["properties"]["schema"]["enum"]) == recipe.SCHEMAS


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_takes_what_we_write(config: SearchConfig) -> None:
    VALIDATOR.validate(made(config))


def test_it_takes_blocks_evidence_and_schema_1() -> None:
    blocks = made(SearchConfig(blocks="layers:2"), (0.5, -0.25, 0.1, 0.2))
    VALIDATOR.validate({**blocks, "evidence": {"methods": []}})
    VALIDATOR.validate(of_schema_1())
    recipe.check(of_schema_1())


def change(path: str, value: Any) -> Callable[[Document], None]:
    def changed(document: Document) -> None:
        *above, last = path.split(".")
        place: Any = document
        for key in above:
            place = place[int(key) if key.isdigit() else key]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return changed


BAD: dict[str, Callable[[Document], None]] = {
    f"{path}={value!r}": change(path, value)
    for path, value in [
        ("schema", 3), ("schema", True), ("schema", ...), ("spec", ...), ("spec", []),
        ("weights", ...), ("weights", []), ("weights", ["a", "b"]), ("weights", [True, 1]),
        ("weights", [1e31, 0]), ("evidence", []), ("id", "x"),
        ("spec.seed", ...), ("spec.seed", -1), ("spec.seed", 1.5), ("spec.unknown", 1),
        ("spec.template", "no slot"), ("spec.template", "{input} {input}"), ("spec.template", 1),
        ("spec.split", None), ("spec.examples_hash", 1), ("spec.chat_template", 1),
        ("spec.chat_template", ...), ("spec.answer_options", "a"), ("spec.answer_options", [1]),
        ("spec.combination", "product"), ("spec.scaling", "none"), ("spec.rank", "one rank"),
        ("spec.rank", "truncated to 0 by SVD"), ("spec.base_model", "lab/base"),
        ("spec.base_model.revision", ...), ("spec.ingredients", []), ("spec.ingredients", {}),
        ("spec.ingredients", ["lab/a", "lab/b"]), ("spec.objective.kind", "best"),
        ("spec.objective.penalty", -1), ("spec.objective.more", 1), ("spec.objective.kind", ...),
        ("spec.search.budget", 0), ("spec.search.budget", 10**6), ("spec.search.sigma", 0),
        ("spec.search.bound", 0.5), ("spec.search.population", 2), ("spec.search.singles", 1),
        ("spec.search.optimiser", "adam"), ("spec.search.blocks", "layers:0"),
        ("spec.search.selection", "luck"), ("spec.search.folds", 1), ("spec.search.more", 1),
        ("spec.search.patience", ...), ("spec.search.restarts", 101), ("spec.search.x0", 101),
    ]
}  # fmt: skip


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_both_refuse_what_is_wrong(spoil: Callable[[Document], None]) -> None:
    document = copy.deepcopy(made(PRESETS["recommended"]()))
    spoil(document)
    assert not VALIDATOR.is_valid(document)
    if document.get("id") != "x":
        document.pop("id", None)
    with pytest.raises(BadRecipe):
        recipe.check(document)


def test_what_a_schema_cannot_say_the_engine_does() -> None:
    """Numbers that belong together: as docs/recipes.md says."""
    other = made(PRESETS["recommended"]())
    other["spec"]["seed"] = 9
    one_more = made(PRESETS["recommended"]())
    one_more["weights"].append(0.1)
    for document in (other, one_more):
        VALIDATOR.validate(document)
        with pytest.raises(BadRecipe):
            recipe.check(document)

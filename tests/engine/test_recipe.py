from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from composer.engine import recipe
from composer.engine.config import SearchConfig, as_in_the_paper, recommended
from composer.engine.errors import BadRecipe
from composer.engine.examples import Example
from composer.engine.recipe import Recipe, build, canonical, check, digest, examples_hash

EXAMPLES = [Example("big", "small"), Example("hot", "kalt – ü")]


def make(config: SearchConfig | None = None, weights: Any = (0.5, -1.25)) -> Recipe:
    ingredients = [{"repo": f"us/{i}", "revision": "r", "sha256": "0" * 64} for i in range(2)]
    spec = recipe.make_spec(
        base_model={"repo": "us/base", "revision": "abc"},
        ingredients=ingredients,
        config=config or recommended(seed=1),
        template="say {input}",
        examples_hash=examples_hash(EXAMPLES),
    )
    return build(spec, weights)


def test_its_id_is_the_hash_of_its_canonical_json() -> None:
    made = make()
    text = canonical(made).decode()
    assert made.id == digest(made) == hashlib.sha256(text.encode()).hexdigest()
    assert json.loads(text) == {k: made.to_json()[k] for k in ("schema", "spec", "weights")}
    assert text.endswith('"weights":[0.5,-1.25]}')
    keys = list(json.loads(text)["spec"])
    assert keys == sorted(keys)


def test_its_id_does_not_hang_on_order_or_evidence() -> None:
    made = make()
    document = json.loads(json.dumps(made.to_json()))
    document["spec"] = dict(reversed(document["spec"].items()))
    document["evidence"] = {"loss": 0.25}
    again = check(document)
    assert again == made
    assert again.id == made.id
    assert made.with_evidence({"a": 1}).id == made.id


def test_its_id_hangs_on_everything_else() -> None:
    made = make()
    others = [
        make(recommended(seed=2)),
        make(recommended(budget=100, seed=1)),
        make(replace(recommended(seed=1), penalty=0.1)),
        make(weights=(0.5, -1.2500000000000002)),
    ]
    for key, value in (("template", "{input}"), ("examples_hash", "1"), ("split", "half")):
        others.append(build({**made.spec, key: value}, made.weights))
    assert len({made.id, *(other.id for other in others)}) == len(others) + 1


def test_w_and_minus_w_are_one_lorahub_recipe_and_two_sum_recipes() -> None:
    one, other = (make(as_in_the_paper(), w) for w in ((0.5, -1.25), (-0.5, 1.25)))
    assert one.weights == other.weights == (-0.5, 1.25)
    assert one.id == other.id
    assert make(weights=(0.5, -1.25)).id != make(weights=(-0.5, 1.25)).id


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((), ()),
        ((0.0, -0.0), (0.0, 0.0)),
        ((1, -1), (1.0, -1.0)),
        ((-1, 1), (1.0, -1.0)),
        ((0.2, -3.0, 1.0), (-0.2, 3.0, -1.0)),
    ],
)
def test_the_canonical_sign_makes_the_largest_weight_positive(
    weights: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    found = recipe.canonical_sign(weights)
    assert found == expected
    assert [str(w) for w in found] == [str(w) for w in expected]  # no -0.0


def test_it_gives_back_the_settings_of_its_search() -> None:
    for config in (recommended(seed=5), as_in_the_paper(seed=6)):
        assert recipe.config_of(make(config).spec) == config


def test_the_examples_hash_knows_order_text_and_salt() -> None:
    hashes = {
        examples_hash(EXAMPLES),
        examples_hash(EXAMPLES[::-1]),
        examples_hash(EXAMPLES, "salt"),
        examples_hash([Example("bigs", "mall"), EXAMPLES[1]]),
        examples_hash([]),
    }
    assert len(hashes) == 5
    assert examples_hash(EXAMPLES) == examples_hash(list(EXAMPLES))


def without(key: str) -> Any:
    return lambda d: {**d, "spec": {k: v for k, v in d["spec"].items() if k != key}}


def with_spec(**changes: Any) -> Any:
    return lambda d: {**d, "spec": {**d["spec"], **changes}}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: [],
        lambda d: {**d, "schema": 3},
        lambda d: {**d, "schema": True},
        lambda d: {**d, "spec": None},
        lambda d: {**d, "weights": [0.5]},
        lambda d: {**d, "weights": [0.5, float("nan")]},
        lambda d: {**d, "weights": [0.5, "1"]},
        lambda d: {**d, "weights": [0.5, 10**400]},
        lambda d: {**d, "weights": None},
        lambda d: {**d, "evidence": []},
        lambda d: {**d, "id": "0" * 64},
        lambda d: {**d, "weights": [0.5, -1.0]},  # no longer what its id says
        *(without(key) for key in recipe.SPEC_KEYS[2]),
        with_spec(extra=1),
        with_spec(combination="mean"),
        with_spec(combination=["sum"]),
        with_spec(seed=-1),
        with_spec(split=5),
        with_spec(scaling="as it comes"),
        with_spec(rank="one rank"),
        lambda d: with_spec(search={**d["spec"]["search"], "seed": 7})(d),
        lambda d: with_spec(search={**d["spec"]["search"], "combination": "lorahub"})(d),
        lambda d: with_spec(objective={**d["spec"]["objective"], "budget": 7})(d),
        with_spec(search={}),
        with_spec(search={"budget": "many"}),
        with_spec(objective={"kind": "paper"}),
        with_spec(base_model={"repo": "x"}),
        with_spec(ingredients=[]),
        with_spec(ingredients=[{"repo": "x"}, 5]),
        with_spec(template=5),
        with_spec(template="no slot"),
    ],
)
def test_it_refuses_a_document_that_is_not_a_recipe(spoil: Any) -> None:
    with pytest.raises(BadRecipe):
        check(spoil(make().to_json()))

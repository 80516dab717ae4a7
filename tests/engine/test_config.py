from __future__ import annotations

import json
from dataclasses import replace

import pytest

from composer.engine.config import (
    PRESETS,
    SearchConfig,
    as_in_the_paper,
    preset_with,
    recommended,
    with_combination,
)
from composer.engine.errors import BadConfig


def test_the_presets_are_what_they_say() -> None:
    ours, paper = recommended(), as_in_the_paper()
    assert (ours.combination, ours.budget, ours.x0, ours.sigma) == ("sum", 200, 0.1, 0.1)
    assert (ours.optimiser, ours.penalty) == ("cobyla", 0.02)
    assert paper.optimiser == "cmaes"
    assert (paper.combination, paper.budget, paper.x0) == ("lorahub", 40, 0.0)
    assert (paper.bound, paper.penalty, paper.singles) == (1.5, 0.05, False)
    assert {name: preset(budget=7, seed=9) for name, preset in PRESETS.items()} == {
        "recommended": replace(ours, budget=7, seed=9),
        "paper": replace(paper, budget=7, seed=9),
    }


def test_counted_answers_are_searched_by_ranks_unless_said_otherwise() -> None:
    assert preset_with("recommended", {"objective": "exact_match"}).optimiser == "cmaes"
    assert preset_with("recommended", {"objective": "options"}).optimiser == "cobyla"
    chosen = {"objective": "exact_match", "optimiser": "random"}
    assert preset_with("recommended", chosen).optimiser == "random"


def test_it_survives_json() -> None:
    for preset in PRESETS.values():
        settings = preset()
        assert SearchConfig.from_json(json.loads(json.dumps(settings.to_json()))) == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("combination", "mean"),
        ("objective", "accuracy"),
        ("reduction", "max"),
        ("optimiser", "adam"),
        ("budget", 0),
        ("budget", 10**9),
        ("budget", 20.0),
        ("budget", True),
        ("seed", -1),
        ("seed", 2**53),
        ("x0", float("nan")),
        ("penalty", 10**400),
        ("x0", 1.6),
        ("sigma", 0),
        ("sigma", "0.1"),
        ("bound", 0.5),
        ("bound", float("inf")),
        ("penalty", -0.1),
        ("population", 3),
        ("singles", 1),
    ],
)
def test_it_refuses_a_setting_by_name(name: str, value: object) -> None:
    with pytest.raises(BadConfig, match=f"^{name} is ") as found:
        SearchConfig.from_json({**SearchConfig().to_json(), name: value})
    assert name in found.value.fields


def test_it_refuses_an_unknown_setting() -> None:
    with pytest.raises(BadConfig, match="'temperature'"):
        SearchConfig.from_json({"temperature": 1})


def test_the_reference_objective_pools_tokens() -> None:
    with pytest.raises(BadConfig, match="reduction"):
        SearchConfig(objective="reference", reduction="example").validate()


def test_each_combination_brings_its_own_start_and_step() -> None:
    lorahub = with_combination(recommended(), "lorahub")
    assert (lorahub.x0, lorahub.sigma) == (0.1, 0.1)
    assert with_combination(lorahub, "sum") == recommended()
    assert with_combination(as_in_the_paper(), "lorahub") == as_in_the_paper()

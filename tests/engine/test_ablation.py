"""What each module does in a mixture, against mixtures made by hand."""

import numpy as np
import pytest

from composer.engine.ablation import ablate, by_loss, measure
from composer.engine.base_model import BaseModel
from composer.engine.config import SearchConfig
from composer.engine.objective import Objective
from composer.engine.stack import Stack
from tests.engine.conftest import EXAMPLES, TEMPLATE


def objective(base: BaseModel, stack: Stack, **settings: str) -> Objective:
    return Objective.of(base, stack, EXAMPLES, TEMPLATE, SearchConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_is_the_mixture_without_the_module(
    t5: BaseModel, modules: Stack, combination: str
) -> None:
    mixed = objective(t5, modules, combination=combination)
    weights = np.linspace(0.9, -0.5, len(modules))
    weights[1] = 0.0
    found = ablate(mixed, weights)
    assert 1 not in found.without and len(found.without) == np.count_nonzero(weights)
    assert found.examples == len(EXAMPLES)
    for module, variant in found.without.items():
        by_hand = weights.copy()
        by_hand[module] = 0.0
        assert variant.loss == pytest.approx(mixed.task_loss(by_hand[None])[0], rel=1e-5)
    assert found.whole.loss == pytest.approx(mixed.task_loss(weights[None])[0], rel=1e-5)


def test_the_strongest_are_kept_alone(t5: BaseModel, modules: Stack) -> None:
    """Twice the modules, so that there are more than five."""
    many = modules.subset([*range(len(modules))] * 2)
    mixed = objective(t5, many)
    weights = np.linspace(0.1, 0.8, len(many)) * np.where(np.arange(len(many)) % 2, 1, -1)
    found = ablate(mixed, weights)
    assert list(found.strongest) == [count for count in (3, 5) if count < len(many)]
    kept, variant = found.strongest[3]
    assert list(kept) == np.argsort(-np.abs(weights))[:3].tolist()
    by_hand = np.zeros(len(many))
    by_hand[list(kept)] = weights[list(kept)]
    assert variant.loss == pytest.approx(mixed.task_loss(by_hand[None])[0], rel=1e-5)
    assert found.cost == 1 + len(many) + len(found.strongest)


def test_a_module_is_left_out_of_all_its_blocks(t5: BaseModel, modules: Stack) -> None:
    mixed = objective(t5, modules, blocks="sides")
    N = len(modules)
    weights = np.linspace(0.2, 0.9, 2 * N)
    by_hand = weights.copy()
    by_hand[[0, N]] = 0.0
    found = ablate(mixed, weights)
    assert found.without[0].loss == pytest.approx(mixed.task_loss(by_hand[None])[0], rel=1e-5)


def test_whatever_was_searched_for_the_loss_is_told(t5: BaseModel, modules: Stack) -> None:
    counted = objective(t5, modules, objective="exact_match", optimiser="cmaes")
    plain = objective(t5, modules)
    told = by_loss(counted, EXAMPLES, TEMPLATE)
    weights = np.full((1, len(modules)), 0.3)
    assert measure(told, weights)[0].loss == pytest.approx(plain.task_loss(weights)[0])
    assert by_loss(plain, EXAMPLES, TEMPLATE) is plain

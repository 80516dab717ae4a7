"""Which modules are nearly the same, by what they add to the base model."""

import numpy as np
import pytest
import torch

from composer.engine.contenders import rotated_stack
from composer.engine.likeness import cosines, folded
from composer.engine.stack import Stack


def naive(stack: Stack) -> np.ndarray:
    """Every ΔW formed and laid out as one long row."""
    rows = torch.cat(
        [(stack.B[layer].double() @ A.double()).flatten(1) for layer, A in sorted(stack.A.items())],
        dim=1,
    )
    rows = rows / rows.norm(dim=1, keepdim=True)
    return (rows @ rows.T).numpy()


def test_it_is_the_cosine_of_what_is_added(modules: Stack) -> None:
    assert cosines(modules) == pytest.approx(naive(modules), abs=1e-9)


def test_the_same_module_in_another_basis_is_the_same(modules: Stack) -> None:
    both = modules.subset([*range(len(modules)), 0])
    turned = rotated_stack(both, seed=3)
    assert cosines(turned)[0, len(modules)] == pytest.approx(1.0)
    assert (cosines(turned)[0, 1 : len(modules)] < 0.9).all()


def test_a_module_that_adds_nothing_is_like_no_other(modules: Stack) -> None:
    rows = modules.rows.clone()
    rows[1] = 0
    found = cosines(
        modules.with_factors(
            {layer: place.A(rows) for layer, place in modules.places.items()},
            {layer: place.B(rows) for layer, place in modules.places.items()},
        )
    )
    assert found[1, 0] == 0 and found[1, 1] == 1 and np.isfinite(found).all()


def test_the_first_of_the_ranking_stands_for_those_like_it() -> None:
    likeness = np.array(
        [[1.0, 0.2, 0.97, 0.1], [0.2, 1.0, 0.3, 0.96], [0.97, 0.3, 1.0, 0.2], [0.1, 0.96, 0.2, 1.0]]
    )
    assert folded(likeness, [2, 3, 0, 1]) == {2: [0], 3: [1]}
    assert folded(likeness, [0]) == {0: []}
    assert folded(likeness, [0, 1, 2, 3], nearly=0.99) == {0: [], 1: [], 2: [], 3: []}

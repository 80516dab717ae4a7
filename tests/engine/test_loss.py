from __future__ import annotations

import numpy as np
import pytest

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.config import SearchConfig
from composer.engine.examples import encode
from composer.engine.loss import Chunk, answer_losses
from composer.engine.objective import Objective
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE

WEIGHTS = np.random.default_rng(0).normal(0, 0.7, (7, 4))


def slow_losses(base: BaseModel, modules: Stack, combination: str) -> list[list[list[float]]]:
    found = []
    for weights in WEIGHTS:
        with slow.merged(base, weights.tolist(), modules, combination):
            found.append(slow.answer_losses(base, EXAMPLES, TEMPLATE))
    return found


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_gives_a_population_the_losses_of_the_slow_obvious_version(
    t5: BaseModel, modules: Stack, batch: Batch, combination: str
) -> None:
    config = SearchConfig(combination=combination)
    fast = Objective(t5, modules, batch, config).answer_losses(WEIGHTS)
    expected = [[sum(row) for row in rows] for rows in slow_losses(t5, modules, combination)]
    np.testing.assert_allclose(fast, expected, atol=2e-5)
    assert np.ptp(fast.sum(axis=1)) > 0.1  # the candidates do differ


@pytest.mark.parametrize(
    ("objective", "reduction"), [("paper", "token"), ("paper", "example"), ("reference", "token")]
)
def test_it_reduces_and_penalises_as_the_objective_says(
    t5: BaseModel, modules: Stack, batch: Batch, objective: str, reduction: str
) -> None:
    config = SearchConfig(
        combination="lorahub", objective=objective, reduction=reduction, penalty=0.05
    )
    found = Objective(t5, modules, batch, config)(WEIGHTS)
    for loss, weights, rows in zip(
        found, WEIGHTS, slow_losses(t5, modules, "lorahub"), strict=True
    ):
        tokens = [token for row in rows for token in row]
        pooled = sum(tokens) / len(tokens)
        expected = {
            ("paper", "token"): pooled + 0.05 * sum(abs(weights)),
            ("paper", "example"): np.mean([np.mean(row) for row in rows])
            + 0.05 * sum(abs(weights)),
            ("reference", "token"): pooled / 5 + 0.05 * np.mean(abs(weights)),
        }[objective, reduction]
        assert loss == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_is_the_base_model_at_zero_weights(
    t5: BaseModel, modules: Stack, batch: Batch, combination: str
) -> None:
    config = SearchConfig(combination=combination)
    zero = Objective(t5, modules, batch, config).answer_losses(np.zeros((2, 4)))
    alone = answer_losses(t5, None, batch)
    np.testing.assert_allclose(zero, np.repeat(alone.numpy(), 2, axis=0), atol=1e-6)


def test_it_gives_a_module_at_weight_1_the_same_loss_in_both_combinations(
    t5: BaseModel, modules: Stack, batch: Batch
) -> None:
    singles = [
        Objective(t5, modules, batch, SearchConfig(combination=name)).task_loss(np.eye(4))
        for name in ("sum", "lorahub")
    ]
    np.testing.assert_allclose(*singles, atol=1e-6)


def test_it_gives_the_same_losses_in_any_chunk(t5: BaseModel, modules: Stack, batch: Batch) -> None:
    config = SearchConfig()
    whole = Objective(t5, modules, batch, config)
    assert whole.chunk == Chunk(candidates=whole.chunk.candidates, examples=5)
    parts = Objective(t5, modules, batch, config, chunk=Chunk(candidates=3, examples=2))
    np.testing.assert_allclose(whole(WEIGHTS), parts(WEIGHTS), atol=1e-6)


def test_it_keeps_a_forward_within_bounds(t5: BaseModel, modules: Stack) -> None:
    many = encode(EXAMPLES * 200, TEMPLATE, t5.tokenizer)
    chunk = Objective(t5, modules, many, SearchConfig()).chunk
    tokens = chunk.examples * (many.input_ids.shape[1] + 3)
    assert tokens <= 4096
    assert tokens * chunk.candidates <= 16384


def test_it_counts_a_loss_that_is_not_finite_as_the_worst(
    t5: BaseModel, modules: Stack, batch: Batch
) -> None:
    objective = Objective(t5, modules, batch, SearchConfig())
    losses = objective(np.array([[0.1, 0, 0, 0], [1e39, 1, 0, 0]]))
    assert np.isfinite(losses[0])
    assert losses[1] == np.inf
    assert objective.not_finite == 1


def test_it_leaves_no_trace_in_the_model(t5: BaseModel, modules: Stack, batch: Batch) -> None:
    before = answer_losses(t5, None, batch)
    Objective(t5, modules, batch, SearchConfig())(WEIGHTS)
    assert (answer_losses(t5, None, batch) == before).all()
    assert not any(module._forward_hooks for module in t5.model.modules())

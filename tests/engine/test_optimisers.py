"""Every optimiser through the one interface of generations."""

from __future__ import annotations

import gc
import json
import threading
from dataclasses import replace

import numpy as np
import pytest

from composer.engine import stack
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.config import OPTIMISERS, SELECTIONS, SearchConfig, recommended
from composer.engine.errors import BadConfig, ResumeMismatch
from composer.engine.generation import Generation
from composer.engine.loss import Chunk
from composer.engine.objective import Objective
from composer.engine.scipy_optimisers import TurnTaking
from composer.engine.search import search
from composer.engine.stack import Stack
from tests.engine.conftest import EXAMPLES, TEMPLATE, make_adapter

AIM = np.random.default_rng(5).normal(0, 0.5, 6)
DIRECTIONS = np.random.default_rng(6).normal(0, 1.5, (12, 6))


class Valley:
    """Twelve examples; with r_b = a_b · (w - aim), the loss on example b is r_b² + r_b⁴."""

    examples = 12
    shift = 0.0

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.gradients = 0

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return self.reduce(self.example_losses(weights)) + self.penalty(weights)

    def example_losses(self, weights: np.ndarray) -> np.ndarray:
        self.seen.extend(weights)
        away = (weights - AIM) @ DIRECTIONS.T
        return away**2 + away**4 + self.shift

    def reduce(self, example_losses: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        return (example_losses if rows is None else example_losses[:, rows]).mean(axis=1)

    def penalty(self, weights: np.ndarray) -> np.ndarray:
        return 0.001 * np.abs(weights).sum(axis=1)

    def loss_and_gradient(
        self, weights: np.ndarray, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.gradients += 1
        some = np.arange(12) if rows is None else rows
        away = (weights - AIM) @ DIRECTIONS[some].T
        slope = (2 * away + 4 * away**3) @ DIRECTIONS[some] / len(some)
        return self.example_losses(weights), slope + 0.001 * np.sign(weights)


def rows(generations: list[Generation]) -> list[dict]:
    found = [json.loads(json.dumps(generation.to_json())) for generation in generations]
    return [{**row, "seconds": 0.0} for row in found]


def settings(optimiser: str, selection: str = "examples", **others) -> SearchConfig:
    return replace(
        recommended(budget=120, seed=3),
        optimiser=optimiser, selection=selection, folds=3, **others,
    )  # fmt: skip


every_optimiser = pytest.mark.parametrize("optimiser", OPTIMISERS)
every_selection = pytest.mark.parametrize("selection", SELECTIONS)


@every_optimiser
@every_selection
def test_it_resumes_to_the_same_bits_at_every_generation(optimiser: str, selection: str) -> None:
    config = replace(settings(optimiser, selection), budget=75)
    whole = rows(list(search(Valley(), 6, config)))
    assert len(whole) >= 3
    for done in range(len(whole) + 1):
        objective = Valley()
        rest = rows(list(search(objective, 6, config, resume=whole[:done])))
        assert whole[:done] + rest == whole
        # What is stored is not evaluated again.
        assert len(objective.seen) == sum(len(row["weights"]) for row in whole[done:])


@every_optimiser
def test_another_seed_searches_elsewhere(optimiser: str) -> None:
    one, other = (rows(list(search(Valley(), 6, settings(optimiser))))[1:] for _ in range(2))
    assert one == other
    differs = rows(list(search(Valley(), 6, replace(settings(optimiser), seed=4))))[1:]
    # COBYLA draws nothing: it is the same with every seed.
    assert (differs[0]["weights"] == one[0]["weights"]) == (optimiser == "cobyla")


@every_optimiser
@every_selection
@pytest.mark.parametrize("budget", [1, 3, 7, 8, 9, 10, 24, 61])
def test_it_never_oversteps_the_budget(optimiser: str, selection: str, budget: int) -> None:
    objective = Valley()
    if (optimiser, selection) == ("cobyla", "folds"):
        budget += 60  # less is refused
    config = replace(settings(optimiser, selection), budget=budget)
    generations = list(search(objective, 6, config))
    spent = len(objective.seen) + 2 * objective.gradients
    assert spent == generations[-1].evaluations <= budget
    assert generations[-1].ended == "budget"
    # What is left is less than a gradient, or the one that would have been kept for the mean.
    left = budget - spent
    assert left <= (2 if optimiser == "lbfgs" else 0) + (selection == "folds")


@every_optimiser
def test_it_returns_the_best_it_has_seen_and_not_the_last(optimiser: str) -> None:
    generations = list(search(Valley(), 6, settings(optimiser)))
    losses = np.concatenate([g.losses for g in generations])
    weights = np.concatenate([g.weights for g in generations])
    assert generations[-1].best_loss == losses.min() <= losses[-1]
    if optimiser != "lbfgs":  # it goes downhill only
        assert losses.min() < losses[-1]
    assert (generations[-1].best_weights == weights[losses.argmin()]).all()


@pytest.mark.parametrize(
    ("optimiser", "near"), [("cmaes", 0.02), ("cobyla", 1e-3), ("lbfgs", 1e-3)]
)
def test_it_finds_what_it_looks_for(optimiser: str, near: float) -> None:
    *_, last = search(Valley(), 6, replace(settings(optimiser), budget=1500))
    assert last.ended == "converged"
    np.testing.assert_allclose(last.best_weights, AIM, atol=near)


def test_random_draws_lie_around_the_start() -> None:
    generations = list(search(Valley(), 6, replace(settings("random"), budget=4000, sigma=0.2)))
    drawn = np.concatenate([g.weights for g in generations[1:]])
    assert drawn.mean() == pytest.approx(0.1, abs=0.01)
    assert drawn.std() == pytest.approx(0.2, abs=0.01)


@every_optimiser
def test_it_stays_within_the_bounds(optimiser: str) -> None:
    objective = Valley()
    config = replace(settings(optimiser, bound=1.0), sigma=0.5, budget=400)
    far = Valley()
    far.example_losses = lambda w: -np.tile(w.sum(axis=1, keepdims=True), 12)  # type: ignore
    far.loss_and_gradient = lambda w, rows=None: (far.example_losses(w), -np.ones_like(w))  # type: ignore
    for target in (objective, far):
        generations = list(search(target, 6, config))
        assert max(abs(g.weights).max() for g in generations) <= 1.0
    assert generations[-1].best_weights.mean() > (0.3 if optimiser == "random" else 0.9)


@every_optimiser
@every_selection
def test_a_loss_that_is_not_finite_is_only_the_worst(optimiser: str, selection: str) -> None:
    class Holes(Valley):
        def example_losses(self, weights: np.ndarray) -> np.ndarray:
            losses = super().example_losses(weights)
            losses[np.abs(weights * 1e4).astype(int).sum(axis=1) % 4 == 1] = np.nan
            return losses

        def loss_and_gradient(self, weights, rows=None):
            losses, gradient = super().loss_and_gradient(weights, rows)
            return losses, np.where(np.isfinite(losses.sum()), gradient, np.nan)

    config = settings(optimiser, selection)
    generations = list(search(Holes(), 6, config))
    losses = np.concatenate([g.losses for g in generations])
    assert np.isinf(losses).any() and not np.isnan(losses).any()
    assert np.isfinite(generations[-1].best_loss)
    begin = generations[0].losses if selection != "validation" else generations[0].selection_losses
    assert generations[-1].best_loss < np.ravel(begin)[0]
    stored = rows(generations)
    assert stored[:2] + rows(list(search(Holes(), 6, config, resume=stored[:2]))) == stored


@every_optimiser
def test_nothing_finite_at_all_is_no_error(optimiser: str) -> None:
    nothing = Valley()
    nothing.shift = np.nan
    *_, last = search(nothing, 6, settings(optimiser))
    assert last.best_loss == np.inf
    assert (last.best_weights == 0).all()


def optimiser_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "optimiser"]


@pytest.mark.parametrize("optimiser", ["cobyla", "lbfgs"])
@every_selection
def test_no_thread_is_left_behind(optimiser: str, selection: str) -> None:
    assert optimiser_threads() == []
    config = settings(optimiser, selection, population=4)
    stored = rows(list(search(Valley(), 6, config)))  # to the end
    assert optimiser_threads() == []
    for stop_after in (1, 2, 3):  # abandoned in the middle
        generations = search(Valley(), 6, config)
        for _ in range(stop_after):
            next(generations)
        assert optimiser_threads() != []
        generations.close()
        assert optimiser_threads() == []
    forgotten = search(Valley(), 6, config)
    next(forgotten)
    del forgotten
    gc.collect()
    assert optimiser_threads() == []
    with pytest.raises(ResumeMismatch):  # refused
        next(search(Valley(), 6, replace(config, sigma=0.3), resume=stored))
    assert optimiser_threads() == []


@pytest.mark.parametrize("optimiser", ["cobyla", "lbfgs"])
def test_an_error_in_the_objective_reaches_the_caller(optimiser: str) -> None:
    class Stopped(Exception):
        pass

    class Stopping(Valley):
        def example_losses(self, weights: np.ndarray) -> np.ndarray:
            if len(self.seen) > 20:
                raise Stopped
            return super().example_losses(weights)

    with pytest.raises(Stopped):
        list(search(Stopping(), 6, settings(optimiser)))
    assert optimiser_threads() == []


def test_an_error_in_the_optimiser_reaches_the_caller() -> None:
    def loop(function) -> None:
        function(np.zeros(3))
        raise ValueError("what scipy may raise")

    optimiser = TurnTaking(settings("cobyla"), loop)
    with pytest.raises(ValueError, match="scipy"):
        optimiser.tell(optimiser.ask(), np.ones(1), None)
    assert optimiser.converged
    assert optimiser_threads() == []


@pytest.mark.parametrize("optimiser", ["cobyla", "random", "lbfgs"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("losses", lambda v: [(0.5).hex(), *v[1:]]),
        ("losses", lambda v: v[:-1]),
        ("weights", lambda v: [v[1], v[0], *v[2:]]),
        ("digest", lambda v: "0" * 64),
        ("evaluations", lambda v: v + 1),
        ("ended", lambda v: "budget"),
        ("restarts", lambda v: 1),
    ],
)
def test_it_refuses_generations_that_are_not_its_own(optimiser: str, name: str, value) -> None:
    config = settings(optimiser)
    stored = rows(list(search(Valley(), 6, config)))[:3]
    stored[1][name] = value(stored[1][name])
    with pytest.raises(ResumeMismatch):
        next(search(Valley(), 6, config, resume=stored))


def test_it_refuses_other_gradients() -> None:
    stored = rows(list(search(Valley(), 6, settings("lbfgs"))))[:3]
    stored[1]["gradients"][2][0] = (0.25).hex()
    with pytest.raises(ResumeMismatch):
        next(search(Valley(), 6, settings("lbfgs"), resume=stored))


@every_optimiser
def test_it_refuses_the_generations_of_another_optimiser(optimiser: str) -> None:
    stored = rows(list(search(Valley(), 6, settings(optimiser))))[:3]
    for other in set(OPTIMISERS) - {optimiser}:
        with pytest.raises(ResumeMismatch):
            next(search(Valley(), 6, settings(other), resume=stored))


def test_gradients_need_an_objective_that_has_them() -> None:
    with pytest.raises(BadConfig, match="gradients"):
        next(search(lambda w: w.sum(axis=1), 3, settings("lbfgs")))


@pytest.mark.parametrize("optimiser", ["cobyla", "lbfgs"])
def test_a_converged_search_begins_anew_elsewhere(optimiser: str) -> None:
    config = settings(optimiser, restarts=2)
    generations = list(search(Valley(), 6, replace(config, budget=3000)))
    begun = [[g for g in generations if g.restarts == r and g.number][0] for r in range(3)]
    starts = [g.weights[0] for g in begun]
    assert generations[-1].ended == "converged"
    starts = [
        next(g for g in generations if g.restarts == r and g.number).weights[0] for r in range(3)
    ]
    assert all(np.abs(a - b).max() > 0.01 for a, b in zip(starts, starts[1:], strict=False))


@every_optimiser
@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_a_search_over_a_real_model_resumes_to_the_same_bits(
    t5: BaseModel, modules: Stack, batch: Batch, optimiser: str, combination: str
) -> None:
    config = SearchConfig(
        combination=combination, optimiser=optimiser, selection="validation", budget=47, seed=2
    )
    whole = rows(list(search(Objective(t5, modules, batch, config), 4, config)))
    fresh = Objective(t5, modules, batch, config)
    assert whole[:2] + rows(list(search(fresh, 4, config, resume=whole[:2]))) == whole


@pytest.fixture(scope="module")
def smooth(llama: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A model without the kinks of T5's ReLU."""
    root = tmp_path_factory.mktemp("llama-adapters")
    folders = [
        make_adapter(llama, root / f"module-{i}", i, target_modules=["q_proj", "v_proj"])
        for i in range(4)
    ]
    return stack.load(folders, llama)


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
@pytest.mark.parametrize(
    ("objective", "reduction"),
    [("paper", "token"), ("paper", "example"), ("reference", "token"), ("options", "token")],
)
def test_the_gradient_is_the_slope_of_the_loss(
    llama: BaseModel,
    smooth: Stack,
    combination: str,
    objective: str,
    reduction: str,
) -> None:
    config = SearchConfig(combination=combination, objective=objective, reduction=reduction)
    options = [each.target for each in EXAMPLES]
    measured = Objective.of(
        llama, smooth, EXAMPLES, TEMPLATE, config,
        options=options, chunk=Chunk(candidates=4, examples=2),
    )  # fmt: skip
    weights = np.array([[0.7, -0.6, 0.5, 0.8]])
    for some in (None, np.array([0, 3])):
        losses, gradient = measured.loss_and_gradient(weights, some)
        np.testing.assert_allclose(losses, measured.example_losses(weights), atol=1e-5)
        step = 0.01 * np.eye(4)
        ahead, behind = (
            measured.reduce(measured.example_losses(w), some) + measured.penalty(w)
            for w in (weights + step, weights - step)
        )
        np.testing.assert_allclose(gradient[0], (ahead - behind) / 0.02, atol=1e-3)
        assert np.abs(gradient).max() > 0.01
    assert not any(parameter.grad is not None for parameter in llama.model.parameters())


def test_a_search_by_blocks_has_gradients_too(t5: BaseModel, modules: Stack, batch: Batch) -> None:
    config = SearchConfig(optimiser="lbfgs", blocks="sides", budget=60)
    objective = Objective(t5, modules, batch, config)
    *_, last = search(objective, 8, config, modules=4)
    assert last.best_weights.shape == (8,)
    assert last.best_loss < objective(np.zeros((1, 8)))[0]
    assert (last.best_weights[:4] != last.best_weights[4:]).any()

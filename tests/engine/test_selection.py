"""What the best is chosen on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.config import SearchConfig, recommended
from composer.engine.errors import BadConfig, ResumeMismatch
from composer.engine.generation import Generation
from composer.engine.objective import Objective
from composer.engine.search import search
from composer.engine.selection import split
from composer.engine.stack import Stack
from tests.engine.test_optimisers import Valley


def settings(selection: str, **others) -> SearchConfig:
    return replace(recommended(budget=150, seed=3), selection=selection, folds=4, **others)


def rows(generations: list[Generation]) -> list[dict]:
    found = [json.loads(json.dumps(generation.to_json())) for generation in generations]
    return [{**row, "seconds": 0.0} for row in found]


def loss(weights: np.ndarray, some: np.ndarray | None = None) -> np.ndarray:
    objective = Valley()
    return objective.reduce(objective.example_losses(weights), some) + objective.penalty(weights)


def others(parts: list[np.ndarray], kept: int) -> np.ndarray:
    return np.sort(np.concatenate([part for i, part in enumerate(parts) if i != kept]))


@pytest.mark.parametrize(("examples", "folds"), [(12, 4), (5, 5), (5, 2), (3, 5), (2, 5)])
def test_it_splits_the_examples_into_parts_of_equal_size(examples: int, folds: int) -> None:
    parts = split(examples, folds, seed=1)
    assert sorted(np.concatenate(parts)) == list(range(examples))
    assert len(parts) == min(folds, examples)
    sizes = [len(part) for part in parts]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1
    assert [part.tolist() for part in split(examples, folds, 1)] == [p.tolist() for p in parts]
    many = {str([part.tolist() for part in split(examples, folds, seed)]) for seed in range(20)}
    assert len(many) > 1


def test_validation_is_told_nothing_of_what_it_keeps_back() -> None:
    generations = list(search(Valley(), 6, settings("validation")))
    parts = split(12, 4, seed=3)
    for generation in generations:
        np.testing.assert_allclose(generation.losses, loss(generation.weights, others(parts, 0)))
        assert generation.selection_losses is not None
        np.testing.assert_allclose(
            generation.selection_losses[:, 0], loss(generation.weights, parts[0])
        )


def test_validation_chooses_by_what_it_keeps_back() -> None:
    generations = list(search(Valley(), 6, settings("validation")))
    weights = np.concatenate([g.weights for g in generations])
    kept = np.concatenate([g.selection_losses for g in generations])[:, 0]
    told = np.concatenate([g.losses for g in generations])
    last = generations[-1]
    assert (last.best_weights == weights[kept.argmin()]).all()
    assert last.best_loss == kept.min()
    assert kept.argmin() != told.argmin()


def test_each_fold_is_searched_blind_and_picked_by_itself() -> None:
    generations = list(search(Valley(), 6, settings("folds")))
    parts = split(12, 4, seed=3)
    first, turns = generations[0], generations[1:]
    np.testing.assert_allclose(first.losses, loss(first.weights))
    candidates = [[first.weights] for _ in parts]  # of each fold's search
    answers = [first.weights]
    which = 0
    for generation in turns:
        if generation.labels == ("mean of the folds",):
            picks = []
            for own, part in zip(map(np.concatenate, candidates), parts, strict=True):
                picks.append(own[loss(own, part).argmin()])
            np.testing.assert_allclose(generation.weights[0], np.mean(picks, axis=0))
            np.testing.assert_allclose(generation.losses, loss(generation.weights))
            answers.append(generation.weights)
            which = 0
        else:
            told = loss(generation.weights, others(parts, which))
            np.testing.assert_allclose(generation.losses, told)
            candidates[which].append(generation.weights)
            which += 1
    assert generations[-1].labels == ("mean of the folds",)
    assert len(answers) > 3
    found = np.concatenate(answers)
    assert (generations[-1].best_weights == found[loss(found).argmin()]).all()
    assert loss(found).argmin() >= 7  # a mean, not what generation 0 had


def test_the_folds_do_not_all_search_the_same() -> None:
    generations = list(search(Valley(), 6, settings("folds")))
    drawn = [g.weights for g in generations[1:5]]
    assert all((a != b).any() for i, a in enumerate(drawn) for b in drawn[:i])


def test_folds_that_would_end_before_the_first_step_of_cobyla_are_refused() -> None:
    config = replace(settings("folds"), optimiser="cobyla", budget=47)
    with pytest.raises(BadConfig, match="4 searches share 47 evaluations") as caught:
        list(search(Valley(), 6, config))
    assert "at least 48," in str(caught.value)
    generations = list(search(Valley(), 6, replace(config, budget=48)))
    # 7 candidates lay out a first simplex; each of the four searches has some beyond it.
    assert [len(g.losses) for g in generations] == [7, 10, 10, 10, 10, 1]


def test_the_mean_of_lorahub_folds_does_not_cancel_out() -> None:
    """w and -w are one adapter: two picks of opposite signs must not add up to nothing."""

    class Even(Valley):
        def example_losses(self, weights: np.ndarray) -> np.ndarray:
            size = np.abs(weights[:, :1])
            return (size - 0.8) ** 2 + 0.01 * np.arange(12)

        def penalty(self, weights: np.ndarray) -> np.ndarray:
            return np.zeros(len(weights))

    config = settings("folds", optimiser="cmaes", combination="lorahub", x0=0.0, sigma=0.5)
    means = [
        g.weights[0, 0] for g in search(Even(), 3, config) if g.labels == ("mean of the folds",)
    ]
    assert abs(abs(means[-1]) - 0.8) < 0.1
    searched = [g for g in search(Even(), 3, config) if g.number and not g.labels]
    signs = {np.sign(g.weights[g.losses.argmin(), 0]) for g in searched}
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize("selection", ["validation", "folds"])
def test_patience_ends_it_early(selection: str) -> None:
    config = settings(selection, optimiser="cmaes", patience=6)
    generations = list(search(Valley(), 6, replace(config, budget=5000)))
    assert generations[-1].ended == "patience"
    assert generations[-1].evaluations < 5000


@pytest.mark.parametrize("selection", ["validation", "folds"])
def test_it_needs_examples_to_keep_back(selection: str) -> None:
    class One(Valley):
        examples = 1

    with pytest.raises(BadConfig, match="at least two"):
        next(search(One(), 6, settings(selection)))
    with pytest.raises(BadConfig, match="by example"):
        next(search(lambda w: w.sum(axis=1), 6, settings(selection)))


@pytest.mark.parametrize("selection", ["validation", "folds"])
def test_it_refuses_other_selection_losses(selection: str) -> None:
    stored = rows(list(search(Valley(), 6, settings(selection))))[:4]
    stored[2]["selection_losses"][1][0] = (0.001).hex()
    with pytest.raises(ResumeMismatch):
        next(search(Valley(), 6, settings(selection), resume=stored))
    del stored[2]["selection_losses"]
    with pytest.raises(ResumeMismatch):
        next(search(Valley(), 6, settings(selection), resume=stored))


@pytest.mark.parametrize("selection", ["examples", "validation", "folds"])
def test_it_works_on_a_real_model(
    t5: BaseModel, modules: Stack, batch: Batch, selection: str
) -> None:
    config = SearchConfig(budget=60, selection=selection, folds=5)
    objective = Objective(t5, modules, batch, config)
    *_, last = search(objective, 4, config)
    some = split(5, 5, 0)[0] if selection == "validation" else None
    weights = last.best_weights[None]
    whole = objective.reduce(objective.example_losses(weights), some) + objective.penalty(weights)
    assert last.best_loss == pytest.approx(float(whole[0]), abs=1e-6)

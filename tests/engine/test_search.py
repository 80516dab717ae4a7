from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.cmaes import FLAT
from composer.engine.config import SearchConfig, as_in_the_paper, recommended
from composer.engine.errors import BadConfig, ResumeMismatch
from composer.engine.objective import Objective
from composer.engine.search import Generation, search
from composer.engine.stack import Stack

AIM = np.random.default_rng(5).normal(0, 0.5, 12)


def bowl(weights: np.ndarray) -> np.ndarray:
    return ((weights - AIM[: weights.shape[1]]) ** 2).sum(axis=1)


def rows(generations: list[Generation]) -> list[dict]:
    """As stored: through JSON, without the time they took."""
    found = [json.loads(json.dumps(generation.to_json())) for generation in generations]
    return [{**row, "seconds": 0.0} for row in found]


def test_it_starts_with_zero_and_each_module_alone() -> None:
    first = next(search(bowl, 3, recommended(budget=20)))
    assert first.weights.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert first.labels == ("zero", "single:0", "single:1", "single:2")
    assert first.losses.tolist() == bowl(first.weights).tolist()


def test_it_starts_with_zero_alone_as_in_the_paper() -> None:
    first = next(search(bowl, 3, as_in_the_paper()))
    assert first.weights.tolist() == [[0, 0, 0]]
    assert first.labels == ("zero",)


@pytest.mark.parametrize("budget", [1, 5, 13, 14, 40, 100])
def test_it_spends_the_budget_exactly(budget: int) -> None:
    seen = []

    def counted(weights: np.ndarray) -> np.ndarray:
        seen.extend(weights)
        return bowl(weights)

    generations = list(search(counted, 12, recommended(budget=budget)))
    assert len(seen) == generations[-1].evaluations == budget
    assert [g.number for g in generations] == list(range(len(generations)))


def test_it_returns_the_best_it_has_seen() -> None:
    generations = list(search(bowl, 12, recommended(budget=150)))
    losses = np.concatenate([g.losses for g in generations])
    weights = np.concatenate([g.weights for g in generations])
    assert generations[-1].best_loss == losses.min()
    assert (generations[-1].best_weights == weights[losses.argmin()]).all()
    assert all(a.best_loss >= b.best_loss for a, b in pairwise(generations))


def test_it_finds_what_it_looks_for() -> None:
    *_, last = search(bowl, 12, recommended(budget=1500))
    assert last.best_loss < 1e-3
    np.testing.assert_allclose(last.best_weights, AIM, atol=0.05)


def test_it_stays_within_the_bounds() -> None:
    far = replace(recommended(budget=400), bound=1.0)
    generations = list(search(lambda w: -w.sum(axis=1), 5, far))
    assert max(abs(g.weights).max() for g in generations) <= 1.0
    assert generations[-1].best_weights.min() > 0.9
    free = list(search(lambda w: -w.sum(axis=1), 5, replace(far, bound=None)))
    assert max(abs(g.weights).max() for g in free) > 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 25])
def test_it_searches_any_number_of_modules(n: int) -> None:
    *_, last = search(lambda w: ((w - 0.4) ** 2).sum(axis=1), n, recommended(budget=30 * n))
    assert last.best_weights.shape == (n,)
    assert last.best_loss < 0.16 * n


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    one, again = (rows(list(search(bowl, 12, recommended(seed=3)))) for _ in range(2))
    assert one == again
    assert rows(list(search(bowl, 12, recommended(seed=4)))) != one


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
@pytest.mark.parametrize("done", [0, 1, 2, 7, 12])
def test_it_resumes_to_the_same_bits(combination: str, done: int) -> None:
    config = SearchConfig(combination=combination, optimiser="cmaes", budget=133, seed=7)
    whole = rows(list(search(bowl, 12, config)))
    assert len(whole) == 12
    np.random.seed(1)
    np.random.standard_normal(100)  # other code draws from the global generator
    resumed = []
    for generation in search(bowl, 12, config, resume=whole[:done]):
        np.random.standard_normal(done + 1)
        resumed.append(generation)
    assert whole[:done] + rows(resumed) == whole


def test_it_leaves_the_global_generator_alone() -> None:
    np.random.seed(2)
    expected = np.random.RandomState(2).standard_normal(4)
    list(search(bowl, 12, recommended(budget=60)))
    assert (np.random.standard_normal(4) == expected).all()


def test_a_finished_search_has_nothing_left_to_do() -> None:
    config = recommended(budget=60)
    assert list(search(bowl, 12, config, resume=rows(list(search(bowl, 12, config))))) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("losses", lambda v: [(0.5).hex(), *v[1:]]),
        ("losses", lambda v: v[:-1]),
        ("weights", lambda v: [v[1], v[0], *v[2:]]),
        ("best_weights", lambda v: [float(9).hex(), *v[1:]]),
        ("best_loss", lambda v: float(-1).hex()),
        ("evaluations", lambda v: v + 1),
        ("digest", lambda v: "0" * 64),
        ("losses", lambda v: "what"),
    ],
)
def test_it_refuses_generations_that_are_not_its_own(name: str, value) -> None:
    config = recommended(budget=100)
    stored = rows(list(search(bowl, 12, config)))[:4]
    stored[2][name] = value(stored[2][name])
    with pytest.raises(ResumeMismatch):
        next(search(bowl, 12, config, resume=stored))


def test_it_refuses_to_resume_with_other_settings() -> None:
    stored = rows(list(search(bowl, 12, recommended(budget=100))))[:3]
    for other in (recommended(budget=100, seed=1), recommended(budget=120)):
        with pytest.raises(ResumeMismatch):
            next(search(bowl, 12, other, resume=stored))


def test_a_loss_that_is_not_finite_is_only_the_worst() -> None:
    def sometimes(weights: np.ndarray) -> np.ndarray:
        losses = bowl(weights)
        losses[::3] = [np.nan, np.inf][len(losses) % 2]
        return losses

    config = recommended(budget=150)
    generations = list(search(sometimes, 12, config))
    assert np.isfinite(generations[-1].best_loss)
    assert all(g.losses[0] == np.inf for g in generations)
    stored = rows(generations)
    assert stored[:5] + rows(list(search(sometimes, 12, config, resume=stored[:5]))) == stored


def test_it_shows_lorahub_weights_in_canonical_sign() -> None:
    generations = search(bowl, 12, SearchConfig(combination="lorahub", budget=200))
    for generation in generations:
        best = generation.best_weights
        assert best[abs(best).argmax()] >= 0


def test_it_survives_a_flat_loss() -> None:
    """And ends when many generations have told it nothing."""
    flat = list(search(lambda w: np.ones(len(w)), 12, SearchConfig(optimiser="cmaes", budget=600)))
    assert (flat[-1].best_weights == 0).all()  # nothing was better than the base model
    assert flat[-1].ended == "converged"
    assert len(flat) > FLAT and flat[-1].evaluations < 600


def test_it_needs_a_module() -> None:
    with pytest.raises(BadConfig):
        next(search(bowl, 0, recommended()))


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_a_search_over_a_real_model_resumes_to_the_same_bits(
    t5: BaseModel, modules: Stack, batch: Batch, combination: str
) -> None:
    config = SearchConfig(combination=combination, budget=47, seed=2)
    whole = rows(list(search(Objective(t5, modules, batch, config), 4, config)))
    fresh = Objective(t5, modules, batch, config)  # as another worker would make it
    again = whole[:3] + rows(list(search(fresh, 4, config, resume=whole[:3])))
    assert again == whole
    assert len({loss for row in whole for loss in row["losses"]}) > 40  # they do differ


@pytest.mark.parametrize("n", [1, 2, 3])
def test_it_ends_when_it_has_converged(n: int) -> None:
    """It would ask for the same candidate again and again, and its step size would end in NaN."""
    config = replace(recommended(budget=20_000), singles=False)
    generations = list(search(lambda w: 1 + 1e-3 * bowl(w), n, config))
    last = generations[-1]
    assert [g.ended for g in generations] == [""] * (len(generations) - 1) + ["converged"]
    assert last.evaluations == sum(len(g.weights) for g in generations) < 2_000
    np.testing.assert_allclose(last.best_weights, AIM[:n], atol=1e-4)


def test_it_says_when_the_budget_ended_it() -> None:
    generations = list(search(bowl, 12, recommended(budget=60)))
    assert [g.ended for g in generations] == [""] * (len(generations) - 1) + ["budget"]


def two_valleys(weights: np.ndarray) -> np.ndarray:
    """A wide valley near the start, and a deeper one away from it."""
    near = ((weights - 0.1) ** 2).sum(axis=1)
    far = ((weights - 0.8) ** 2).sum(axis=1)
    return np.minimum(near, 4 * far - 0.5)


def test_a_converged_search_begins_anew_with_twice_the_population() -> None:
    config = SearchConfig(optimiser="cmaes", budget=6000, restarts=3, singles=False)
    generations = list(search(two_valleys, 2, config))
    sizes = {g.restarts: len(g.weights) for g in reversed(generations) if g.number}
    assert sizes == {0: 6, 1: 12, 2: 24, 3: 48}
    assert generations[-1].ended == "converged"
    *_, once = search(two_valleys, 2, replace(config, restarts=0))
    assert once.best_loss == pytest.approx(0, abs=1e-6)  # the near valley
    assert generations[-1].best_loss == pytest.approx(-0.5, abs=1e-6)
    stored = rows(generations)
    for done in (1, len(stored) // 2, len(stored) - 1):
        rest = rows(list(search(two_valleys, 2, config, resume=stored[:done])))
        assert stored[:done] + rest == stored


def test_patience_ends_a_search_that_finds_nothing_better() -> None:
    config = replace(recommended(budget=2000), optimiser="cmaes", patience=4)
    generations = list(search(lambda w: bowl(w).round(2), 3, config))
    best = [g.best_loss for g in generations]
    assert generations[-1].ended == "patience"
    assert best[-5:] == [best[-1]] * 5 and best[-6] > best[-1]
    assert generations[-1].evaluations < 2000
    assert list(search(lambda w: bowl(w).round(2), 3, config, resume=rows(generations))) == []


def test_a_single_module_has_weight_1_in_each_of_its_blocks() -> None:
    first = next(search(bowl, 6, recommended(budget=20), modules=3))
    assert first.labels == ("zero", "single:0", "single:1", "single:2")
    assert first.weights[1:].tolist() == [[1, 0, 0] * 2, [0, 1, 0] * 2, [0, 0, 1] * 2]
    with pytest.raises(BadConfig):
        next(search(bowl, 6, recommended(), modules=4))


def test_each_block_of_lorahub_weights_has_a_sign_of_its_own() -> None:
    aim = np.array([-0.5, 0.3, 0.2, 0.6])
    config = SearchConfig(combination="lorahub", budget=500)
    *_, last = search(lambda w: ((w - aim) ** 2).sum(axis=1), 4, config, modules=2)
    np.testing.assert_allclose(last.best_weights, [0.5, -0.3, 0.2, 0.6], atol=0.05)


def test_it_goes_on_from_generations_of_before_there_were_restarts() -> None:
    config = recommended(budget=150)
    stored = rows(list(search(bowl, 12, config)))
    old = [{k: v for k, v in row.items() if k not in ("restarts", "ended")} for row in stored]
    assert Generation.from_json(old[3]).ended == ""
    assert rows(list(search(bowl, 12, config, resume=old[:4]))) == stored[4:]
    assert list(search(bowl, 12, config, resume=old)) == []


def test_the_digests_are_those_of_searches_already_stored() -> None:
    """A search that was begun by an older version goes on."""
    # Numbers that no machine's arithmetic changes: eighths, and nothing told yet to CMA-ES.
    config = SearchConfig(optimiser="cmaes", budget=10)
    *_, last = search(lambda w: (w > 0.1).sum(axis=1) / 8, 3, config)
    assert last.digest[:12] == "919ef4240d45"

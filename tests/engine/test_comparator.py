"""The rival of a composition is chosen on parts of the examples that it has not seen."""

import numpy as np
import pytest

from composer.engine.base_model import BaseModel
from composer.engine.comparator import PARTS, WAYS, Asking, choose
from composer.engine.config import SearchConfig
from composer.engine.contenders import SCALES, grid_of_scales
from composer.engine.evaluate import losses
from composer.engine.examples import Example
from composer.engine.fresh_lora import FreshRecipe, fresh_lora
from composer.engine.in_context import k_shot
from composer.engine.objective import Objective
from composer.engine.selection import split
from composer.engine.stack import Stack
from tests.engine.conftest import EXAMPLES as SHOTS
from tests.engine.conftest import TEMPLATE

SHORT = FreshRecipe(steps=3)


@pytest.fixture
def asking(t5: BaseModel, modules: Stack) -> Asking:
    return Asking(Objective.of(t5, modules, SHOTS, TEMPLATE, SearchConfig()), SHOTS, TEMPLATE)


def test_every_way_is_measured_on_every_example(asking: Asking) -> None:
    found = choose(asking, seed=1, recipe=SHORT)
    assert list(found.ways) == list(WAYS)
    for way in found.ways.values():
        assert way.losses.shape == (len(SHOTS),) and np.isfinite(way.losses).all()
        assert way.exact is not None and way.exact.shape == (len(SHOTS),)
    assert found.key == max(WAYS, key=lambda key: (found.ways[key].hits, -found.ways[key].loss))
    assert found.cost > 3 * SHORT.steps * PARTS


def test_the_same_seed_chooses_the_same(asking: Asking) -> None:
    first, again = (choose(asking, seed=3, recipe=SHORT) for _ in range(2))
    assert first.key == again.key
    for key in WAYS:
        assert first.ways[key].losses.tolist() == again.ways[key].losses.tolist()


def test_what_is_fitted_has_not_seen_the_part_it_is_measured_on(asking: Asking) -> None:
    """Each by hand for one part: the prompt and the LoRA are made of the other examples."""
    base, stack = asking.objective.base, asking.objective.stack
    part = sorted(split(len(SHOTS), PARTS, 1)[0].tolist())
    others = [each for row, each in enumerate(SHOTS) if row not in part]
    found = choose(asking, seed=1, recipe=SHORT, ways=("zero_shot", "in_context", "fresh_lora"))
    kept = [SHOTS[row] for row in part]
    alone = losses(base, None, None, kept, TEMPLATE)
    assert found.ways["zero_shot"].losses[part] == pytest.approx(alone, rel=1e-5)
    asked = k_shot(base, others, [each.input for each in kept], TEMPLATE)
    prompts = [Example(text, each.target) for text, each in zip(asked.prompts, kept, strict=True)]
    shown = losses(base, None, None, prompts, asked.template)
    assert found.ways["in_context"].losses[part] == pytest.approx(shown, rel=1e-5)
    made = fresh_lora(base, others, TEMPLATE, seed=1, layers=sorted(stack.A), recipe=SHORT)
    trained = losses(base, made.stack, made.weights, kept, TEMPLATE)
    assert found.ways["fresh_lora"].losses[part] == pytest.approx(trained, rel=1e-4)


def test_the_best_module_and_its_scale_are_chosen_anew_without_each_part(asking: Asking) -> None:
    """By the losses of every candidate on every example, as a table."""
    found = choose(asking, seed=1, recipe=SHORT, ways=("best_single", "uniform", "uniform_scaled"))
    objective = asking.objective
    N = len(objective.stack)
    singles = objective.example_losses(np.eye(N))
    for drawn in split(len(SHOTS), PARTS, 1):
        part = np.sort(drawn)
        others = np.setdiff1d(np.arange(len(SHOTS)), part)
        best = int(singles[:, others].mean(axis=1).argmin())
        scaled = objective.example_losses(
            np.outer(grid_of_scales(1 / 8, 2.0, SCALES), np.eye(N)[best])
        )
        scale = int(scaled[:, others].mean(axis=1).argmin())
        assert found.ways["best_single"].losses[part] == pytest.approx(scaled[scale, part])
    mean = objective.example_losses(np.full((1, N), 1 / N))[0]
    assert found.ways["uniform"].losses == pytest.approx(mean)


def test_among_answer_options_the_loss_decides(asking: Asking) -> None:
    options = [each.target for each in SHOTS]
    among = Asking(asking.objective, SHOTS, TEMPLATE, options)
    found = choose(among, seed=1, recipe=SHORT)
    assert all(way.exact is None and way.hits == 0 for way in found.ways.values())
    assert found.key == min(WAYS, key=lambda key: found.ways[key].loss)


def test_whoever_asks_can_end_it(asking: Asking) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose(asking, seed=1, recipe=SHORT, after_step=stop)

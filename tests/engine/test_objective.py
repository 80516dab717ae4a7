"""What a search may make small, and how losses by example become one number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.config import SearchConfig
from composer.engine.errors import BadConfig, BadExamples
from composer.engine.evaluate import predict, score
from composer.engine.examples import Example
from composer.engine.fresh_lora import FreshRecipe, fresh_lora
from composer.engine.loss import Chunk
from composer.engine.objective import Objective
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE

WEIGHTS = np.random.default_rng(0).normal(0, 0.9, (6, 4))
OPTIONS = ["small", "cold", "new", "down right", "bad", "left"]
PENALTY = 0.05


def objective(base: BaseModel, modules: Stack, kind: str, **settings: object) -> Objective:
    config = SearchConfig(objective=kind, penalty=PENALTY)
    return Objective.of(base, modules, EXAMPLES, TEMPLATE, config, options=OPTIONS, **settings)


def slow_choice(base: BaseModel, modules: Stack, weights: np.ndarray) -> list[float]:
    """-log( p(right option) / Σ p(option) ), an example at a time."""
    found = []
    with slow.merged(base, weights.tolist(), modules, "sum"):
        for example in EXAMPLES:
            pairs = [Example(example.input, option) for option in OPTIONS]
            p = np.exp([-sum(row) for row in slow.answer_losses(base, pairs, TEMPLATE)])
            found.append(-np.log(p[OPTIONS.index(example.target)] / p.sum()))
    return found


def test_options_is_how_unlikely_the_right_one_is_among_them(t5: BaseModel, modules: Stack) -> None:
    made = objective(t5, modules, "options")
    expected = np.array([slow_choice(t5, modules, weights) for weights in WEIGHTS])
    np.testing.assert_allclose(made.example_losses(WEIGHTS), expected, atol=1e-5)
    penalties = PENALTY * abs(WEIGHTS).sum(axis=1)
    np.testing.assert_allclose(made(WEIGHTS), expected.mean(axis=1) + penalties, atol=1e-5)
    split = objective(t5, modules, "options", chunk=Chunk(candidates=2, examples=2))
    np.testing.assert_allclose(split(WEIGHTS), made(WEIGHTS), atol=1e-6)


def test_options_has_a_gradient(t5: BaseModel, modules: Stack) -> None:
    made = objective(t5, modules, "options")
    w = torch.tensor(WEIGHTS[:1], requires_grad=True)
    losses = made.losses_of(made.compose(w), slice(0, 5))
    (losses[0] * torch.tensor(made.shares())).sum().backward()
    step = 1e-3
    for i in range(4):
        ends = WEIGHTS[0] + step * np.array([[-1.0], [1.0]]) * np.eye(4)[i]
        low, high = made.task_loss(ends)
        assert w.grad is not None
        assert float(w.grad[0, i]) == pytest.approx((high - low) / (2 * step), abs=2e-3)


def test_exact_match_is_the_share_of_answers_that_are_wrong(llama: BaseModel) -> None:
    """Of a LoRA that was trained on the examples, at several weights."""
    recipe = FreshRecipe(r=4, steps=150, learning_rate=3e-2)
    trained = fresh_lora(llama, EXAMPLES, TEMPLATE, seed=1, recipe=recipe).stack
    weights = np.array([[0.0], [0.3], [0.5], [1.0]])
    config = SearchConfig(objective="exact_match", penalty=PENALTY)
    shouted = [Example(each.input, each.target.upper() + ". ") for each in EXAMPLES]
    made = Objective.of(llama, trained, shouted, TEMPLATE, config)
    found = made.example_losses(weights)
    inputs, targets = [each.input for each in EXAMPLES], [each.target for each in EXAMPLES]
    written = [predict(llama, trained, row, inputs, TEMPLATE) for row in weights]
    np.testing.assert_array_equal(
        found, [[float(a != b) for a, b in zip(row, targets, strict=True)] for row in written]
    )
    assert found[0].sum() == 5 and 0 < found.sum() - 5 < 15  # some are right, some are wrong
    shares = np.array([score(row, targets).value for row in written])
    np.testing.assert_allclose(made(weights), 1 - shares + PENALTY * weights[:, 0], atol=1e-12)
    chunk = Chunk(candidates=2, examples=3)
    split = Objective.of(llama, trained, shouted, TEMPLATE, config, chunk=chunk)
    np.testing.assert_array_equal(split.example_losses(weights), found)


@pytest.mark.parametrize(
    ("kind", "reduction"),
    [("paper", "token"), ("paper", "example"), ("reference", "token"), ("options", "token"),
     ("exact_match", "token")],
)  # fmt: skip
def test_some_examples_alone_are_reduced_as_if_there_were_no_others(
    t5: BaseModel, modules: Stack, kind: str, reduction: str
) -> None:
    config = SearchConfig(objective=kind, reduction=reduction)
    whole = Objective.of(t5, modules, EXAMPLES, TEMPLATE, config, options=OPTIONS)
    rows = [3, 0, 4]
    some = [EXAMPLES[row] for row in rows]
    alone = Objective.of(t5, modules, some, TEMPLATE, config, options=OPTIONS)
    losses = whole.example_losses(WEIGHTS)
    np.testing.assert_allclose(whole.reduce(losses, rows), alone.task_loss(WEIGHTS), atol=1e-6)
    np.testing.assert_allclose(whole.reduce(losses), whole.task_loss(WEIGHTS), atol=1e-12)


def test_losses_by_example_are_means_over_answer_tokens(t5: BaseModel, modules: Stack) -> None:
    found = objective(t5, modules, "paper").example_losses(WEIGHTS[:1])
    with slow.merged(t5, WEIGHTS[0].tolist(), modules, "sum"):
        rows = slow.answer_losses(t5, EXAMPLES, TEMPLATE)
    np.testing.assert_allclose(found[0], [np.mean(row) for row in rows], atol=1e-5)


@pytest.mark.parametrize("kind", ["paper", "options"])
def test_a_loss_that_is_not_finite_makes_its_candidate_the_worst(
    t5: BaseModel, modules: Stack, kind: str
) -> None:
    made = objective(t5, modules, kind)
    losses = made(np.array([[0.1, 0, 0, 0], [1e39, 1, 0, 0], [0, 0.1, 0, 0]]))
    assert np.isfinite(losses[[0, 2]]).all()
    assert losses[1] == np.inf
    assert made.not_finite == 1
    assert made.reduce(np.array([[np.nan, 1, 1, 1, 1]])).tolist() == [np.inf]
    assert np.isfinite(made.reduce(np.array([[np.nan, 1, 1, 1, 1]]), rows=[1, 2])).all()


def test_candidates_do_not_change_each_other(t5: BaseModel, modules: Stack) -> None:
    """A candidate whose numbers overflow least of all."""
    for kind in ("paper", "options", "exact_match"):
        made = objective(t5, modules, kind)
        wild = np.full((1, 4), 1e39)
        beside = made.example_losses(np.concatenate([WEIGHTS[:2], wild]))[:2]
        np.testing.assert_allclose(beside, made.example_losses(WEIGHTS[:2]), atol=1e-6)


def test_the_same_weights_give_the_same_bits(t5: BaseModel, modules: Stack) -> None:
    for kind in ("paper", "options", "exact_match"):
        one, other = (objective(t5, modules, kind)(WEIGHTS) for _ in range(2))
        assert one.tobytes() == other.tobytes()


def test_options_needs_options_with_every_answer_among_them(
    t5: BaseModel, modules: Stack, batch: Batch
) -> None:
    config = SearchConfig(objective="options")
    with pytest.raises(BadConfig, match="needs answer options to choose from; there are 0"):
        Objective.of(t5, modules, EXAMPLES, TEMPLATE, config)
    with pytest.raises(BadExamples, match="'down right' in line 4 is no answer option") as caught:
        Objective.of(t5, modules, EXAMPLES, TEMPLATE, config, options=[*OPTIONS[:3], "bad"])
    assert (caught.value.line, caught.value.field) == (4, "target")
    with pytest.raises(BadExamples, match="An answer option is given twice"):
        Objective.of(t5, modules, EXAMPLES, TEMPLATE, config, options=[*OPTIONS, "bad"])
    with pytest.raises(ValueError, match="needs the examples as texts"):
        Objective(t5, modules, batch, config)


def test_it_also_measures_decoder_only_models(gpt2: BaseModel) -> None:
    """Options among a decoder-only model's answers: -log softmax by hand."""
    stack = fresh_lora(gpt2, EXAMPLES, TEMPLATE, seed=1).stack
    config = SearchConfig(objective="options")
    made = Objective.of(gpt2, stack, EXAMPLES, TEMPLATE, config, options=OPTIONS)
    weights = np.array([[0.7]])
    np.testing.assert_allclose(
        made.example_losses(weights), [slow_choice(gpt2, stack, weights[0])], atol=1e-5
    )

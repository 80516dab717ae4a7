"""The simple ways to use the same modules or the same examples."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.config import SearchConfig
from composer.engine.contenders import (
    best_single,
    best_single_scaled,
    rotated_stack,
    uniform,
    uniform_scaled,
)
from composer.engine.evaluate import predict
from composer.engine.in_context import Layout, k_shot
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE, make_adapter


class Counted(Objective):
    """Counts the candidates it is asked for, also by copies of it."""

    def example_losses(self, weights: np.ndarray) -> np.ndarray:
        self.asked.append(len(weights))
        return super().example_losses(weights)


@pytest.fixture(params=["sum", "lorahub"])
def objective(
    t5: BaseModel, modules: Stack, batch: Batch, request: pytest.FixtureRequest
) -> Counted:
    found = Counted(t5, modules, batch, SearchConfig(combination=request.param, blocks="sides"))
    found.asked = []
    return found


def exact(objective: Objective, weights: np.ndarray) -> np.ndarray:
    """Losses of weights (P, N) that are added up exactly."""
    config = SearchConfig()
    return Objective(objective.base, objective.stack, objective.batch, config).task_loss(weights)


def test_the_uniform_average_has_its_scale_tuned(objective: Counted) -> None:
    found = uniform_scaled(objective)
    assert found.cost == sum(objective.asked) == 20
    assert found.combination == "sum"
    assert np.ptp(found.weights) == 0
    assert found.loss == pytest.approx(float(exact(objective, found.weights[None])[0]), abs=1e-6)
    plain = exact(objective, uniform(objective.stack).weights[None])[0]
    every = exact(objective, np.outer(np.linspace(0.25, 4, 60), np.full(4, 0.25)))
    assert found.loss <= plain
    assert found.loss < every.min() + 0.02 * np.ptp(every)


def test_the_best_single_module_has_its_scale_tuned(objective: Counted) -> None:
    single = best_single(objective)
    objective.asked.clear()
    found = best_single_scaled(objective)
    assert found.cost == sum(objective.asked) == 4 + 20
    assert (found.weights != 0).tolist() == (single.weights != 0).tolist()
    assert found.loss is not None and single.loss is not None
    assert found.loss <= single.loss
    assert found.loss == pytest.approx(float(exact(objective, found.weights[None])[0]), abs=1e-6)
    assert 1 / 8 <= found.weights.max() <= 2


def test_a_rotated_basis_leaves_every_module_what_it_is(
    t5: BaseModel, adapters: list[Path], batch: Batch, tmp_path: Path
) -> None:
    other = make_adapter(t5, tmp_path / "wide", 9, r=4)
    stack = stacks.load([*adapters, other], t5)
    rotated = rotated_stack(stack, seed=1)
    for layer in stack.A:
        for single in np.eye(5).tolist():
            torch.testing.assert_close(
                slow.delta(single, rotated, "sum", layer), slow.delta(single, stack, "sum", layer),
                atol=1e-6, rtol=1e-5,
            )  # fmt: skip
        assert (rotated.A[layer][:4, 2:] == 0).all()  # what fills up rank 2 to 4 stays zero
        assert (rotated.A[layer][:4, :2] != stack.A[layer][:4, :2]).all()
    weights = np.array([[0.7, -0.5, 0.4, 0.6, 0.9]])
    losses = {
        (name, combination): Objective(
            t5, each, batch, SearchConfig(combination=combination)
        ).task_loss(weights)[0]
        for name, each in (("stored", stack), ("rotated", rotated))
        for combination in ("sum", "lorahub")
    }
    assert losses["stored", "sum"] == pytest.approx(losses["rotated", "sum"], abs=1e-5)
    assert abs(losses["stored", "lorahub"] - losses["rotated", "lorahub"]) > 1e-3
    assert (rotated_stack(stack, seed=1).rows == rotated.rows).all()
    assert (rotated_stack(stack, seed=2).rows != rotated.rows).any()


def test_the_examples_stand_before_the_input(t5: BaseModel) -> None:
    found = k_shot(t5, EXAMPLES[:2], ["good", "the left"], TEMPLATE)
    assert found.prompts == (
        "opposite of big : small\n\nopposite of hot : cold\n\nopposite of good :",
        "opposite of big : small\n\nopposite of hot : cold\n\nopposite of the left :",
    )
    assert found.shots == (2, 2)
    assert found.tokens == (15, 16)  # with the end
    assert found.tokens_per_input == 15.5
    assert found.cost == 0
    assert len(predict(t5, None, None, found.prompts, found.template, max_new_tokens=3)) == 2


def test_the_layout_is_the_callers(t5: BaseModel) -> None:
    arrows = Layout(answer=" -> ", between=" ; ", end=" ->")
    found = k_shot(t5, EXAMPLES[:2], ["up", "{input}"], Template(), layout=arrows)
    assert found.prompts == (
        "big -> small ; hot -> cold ; up ->",
        "big -> small ; hot -> cold ; {input} ->",
    )


def test_all_of_it_is_one_turn_of_a_chat(llama: BaseModel) -> None:
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}the {{ m.content }} is{% endfor %}"
    chatty = replace(llama, tokenizer=tokenizer)
    found = k_shot(chatty, EXAMPLES[:1], ["up"], TEMPLATE)
    assert found.prompts == ("opposite of big : small\n\nopposite of up :",)
    assert found.tokens == (11,)
    plain = k_shot(chatty, EXAMPLES[:1], ["up"], replace(TEMPLATE, chat=False))
    assert plain.tokens == (9,)
    assert (found.template.chat, plain.template.chat) == (None, False)
    assert len(predict(chatty, None, None, found.prompts, found.template, max_new_tokens=3)) == 1


def test_examples_that_do_not_fit_are_left_out(llama: BaseModel) -> None:
    limit = llama.max_tokens
    assert limit == 32
    found = k_shot(llama, EXAMPLES * 3, ["up", "the " * 25, "the " * 60], TEMPLATE)
    assert [tokens <= limit for tokens in found.tokens] == [True, True, False]
    assert found.shots == (5, 0, 0)
    for prompt, tokens in zip(found.prompts, found.tokens, strict=True):
        assert len(llama.tokenizer(prompt).input_ids) == tokens
    longer = k_shot(llama, EXAMPLES * 3, ["up"], Template("{input} :"))
    assert longer.shots > (5,)

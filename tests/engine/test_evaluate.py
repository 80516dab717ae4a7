from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import binomtest

from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.chunk import TOKENS
from composer.engine.compose import compose
from composer.engine.config import SearchConfig
from composer.engine.evaluate import (
    FreshRecipe,
    answer_room,
    best_single,
    fresh_lora,
    predict,
    randomised_stack,
    score,
    uniform,
    uniform_weights,
)
from composer.engine.examples import Example
from composer.engine.export import export
from composer.engine.loss import answer_losses
from composer.engine.objective import Objective
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE

WEIGHTS = np.array([1.4, -1.1, 0.8, 1.3])
INPUTS = ["big", "the old hot", "up", "a good bad new", "left"]


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_predicts_what_the_merged_model_writes(
    t5: BaseModel, modules: Stack, combination: str
) -> None:
    found = predict(
        t5, modules, WEIGHTS, INPUTS, TEMPLATE, combination, batch_size=2, max_new_tokens=5
    )
    with slow.merged(t5, WEIGHTS.tolist(), modules, combination):
        for text, answer in zip(INPUTS, found, strict=True):
            ids = t5.tokenizer(TEMPLATE.render(text), return_tensors="pt").input_ids
            written = t5.model.generate(ids, max_new_tokens=5, do_sample=False)
            assert answer == t5.tokenizer.decode(written[0], skip_special_tokens=True).strip()


def test_without_weights_it_is_the_base_model(t5: BaseModel, modules: Stack) -> None:
    alone = predict(t5, None, None, INPUTS, TEMPLATE, max_new_tokens=5)
    assert alone == predict(t5, modules, None, INPUTS, TEMPLATE, max_new_tokens=5)
    assert alone == predict(t5, modules, np.zeros(4), INPUTS, TEMPLATE, max_new_tokens=5)


def test_it_chooses_the_most_likely_option(t5: BaseModel, modules: Stack) -> None:
    options = ["small", "down right", "new", "cold"]
    found = predict(t5, modules, WEIGHTS, INPUTS, TEMPLATE, answer_options=options)
    for text, choice in zip(INPUTS, found, strict=True):
        with slow.merged(t5, WEIGHTS.tolist(), modules, "sum"):
            rows = slow.answer_losses(t5, [Example(text, o) for o in options], TEMPLATE)
        assert choice == options[int(np.argmin([sum(row) for row in rows]))]


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (3, 7), (7, 7), (150, 200)])
def test_it_scores_with_the_wilson_interval(correct: int, total: int) -> None:
    found = score(["Yes. "] * correct + ["no"] * (total - correct), ["yes"] * total)
    wilson = binomtest(correct, total).proportion_ci(method="wilson")
    assert (found.correct, found.total) == (correct, total)
    assert found.value == correct / total
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_there_is_room_to_write_the_longest_target(t5: BaseModel, modules: Stack) -> None:
    assert answer_room(t5, EXAMPLES) == answer_room(t5, []) == 32
    room = answer_room(t5, [*EXAMPLES, Example("all", "big " * 50)])
    assert room == 51  # with the end
    (answer,) = predict(t5, None, None, ["big"], TEMPLATE, max_new_tokens=room)
    assert len(answer.split()) > 32  # this random model does not stop by itself


def test_no_held_out_examples_say_nothing() -> None:
    found = score([], [])
    assert (found.total, found.low, found.high) == (0, 0.0, 1.0)


def test_the_best_single_module_is_the_one_of_lowest_loss(
    t5: BaseModel, modules: Stack, batch: Batch
) -> None:
    found = best_single(Objective(t5, modules, batch, SearchConfig()))
    losses = []
    for single in np.eye(4):
        with slow.merged(t5, single.tolist(), modules, "sum"):
            losses.append(sum(map(sum, slow.answer_losses(t5, EXAMPLES, TEMPLATE))))
    assert found.weights.tolist() == np.eye(4)[int(np.argmin(losses))].tolist()
    assert found.cost == 4


def test_the_uniform_average_is_the_mean_delta(modules: Stack) -> None:
    found = uniform(modules)
    assert found.weights.tolist() == uniform_weights(4).tolist() == [0.25] * 4
    layer = min(modules.A)
    singles = [slow.delta(row, modules, "sum", layer) for row in np.eye(4).tolist()]
    mean = slow.delta(found.weights.tolist(), modules, found.combination, layer)
    torch.testing.assert_close(mean, sum(singles) / 4)


def test_the_randomised_control_keeps_every_norm_and_no_direction(modules: Stack) -> None:
    control = randomised_stack(modules, seed=1)
    for layer in modules.A:
        for n in range(4):
            for name in ("A", "Bt"):
                torch.testing.assert_close(
                    getattr(control, name)[layer][n].norm(), getattr(modules, name)[layer][n].norm()
                )
            old, new = (
                slow.delta(np.eye(4)[n].tolist(), stack, "sum", layer)
                for stack in (modules, control)
            )
            torch.testing.assert_close(
                torch.linalg.svdvals(old), torch.linalg.svdvals(new), atol=1e-5, rtol=1e-4
            )
            assert abs(float((old * new).sum() / (old.norm() * new.norm()))) < 0.9
    again = randomised_stack(modules, seed=1)
    assert all((again.A[layer] == control.A[layer]).all() for layer in control.A)
    other = randomised_stack(modules, seed=2)
    assert any((other.A[layer] != control.A[layer]).any() for layer in control.A)


def test_a_fresh_lora_learns_the_examples_and_leaves_the_base_alone(
    t5: BaseModel, batch: Batch, tmp_path
) -> None:
    before = answer_losses(t5, None, batch)
    state = {name: value.clone() for name, value in t5.model.state_dict().items()}
    fresh = fresh_lora(t5, EXAMPLES, TEMPLATE, seed=3)
    assert fresh.cost == 150
    after = answer_losses(t5, compose(fresh.weights[None], fresh.stack, "sum"), batch)
    assert after.sum() < 0.9 * before.sum()
    assert all((value == state[name]).all() for name, value in t5.model.state_dict().items())
    assert not any(parameter.grad is not None for parameter in t5.model.parameters())
    assert len(predict(t5, fresh.stack, fresh.weights, INPUTS, TEMPLATE)) == len(INPUTS)
    assert export(fresh.weights, fresh.stack, "sum", tmp_path).rank == 8
    assert (tmp_path / "adapter_config.json").exists()


def test_a_fresh_lora_can_be_stopped_after_any_step(t5: BaseModel) -> None:
    class Stopped(Exception):
        pass

    steps = []

    def after_step() -> None:
        steps.append(1)
        if len(steps) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        fresh_lora(t5, EXAMPLES, TEMPLATE, seed=1, after_step=after_step)
    assert len(steps) == 3


def test_the_same_seed_trains_the_same_fresh_lora(t5: BaseModel) -> None:
    one, same, other = (fresh_lora(t5, EXAMPLES, TEMPLATE, seed=s).stack for s in (1, 1, 2))
    layer = min(one.A)
    assert (one.A[layer] == same.A[layer]).all() and (one.Bt[layer] == same.Bt[layer]).all()
    assert (one.A[layer] != other.A[layer]).any()


def test_a_fresh_lora_is_the_same_when_its_examples_do_not_fit_into_one_forward(
    t5: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fresh_lora(t5, EXAMPLES, TEMPLATE, seed=1, recipe=FreshRecipe(steps=5)).stack
    monkeypatch.setitem(TOKENS, "cpu", 20)  # two examples at once
    split = fresh_lora(t5, EXAMPLES, TEMPLATE, seed=1, recipe=FreshRecipe(steps=5)).stack
    for layer in whole.A:
        torch.testing.assert_close(split.Bt[layer], whole.Bt[layer], atol=1e-4, rtol=1e-3)


def test_a_fresh_lora_is_what_peft_and_adamw_would_train(t5: BaseModel) -> None:
    """From the same first A, the same steps on the same data give the same adapter."""
    steps, recipe = 6, FreshRecipe(steps=6)
    ours = fresh_lora(t5, EXAMPLES, TEMPLATE, seed=4, recipe=recipe).stack
    start = fresh_lora(t5, EXAMPLES, TEMPLATE, seed=4, recipe=FreshRecipe(steps=0)).stack
    config = LoraConfig(r=recipe.r, lora_alpha=recipe.lora_alpha, target_modules=["q", "v"])
    model = get_peft_model(type(t5.model).from_pretrained(t5.folder), config)
    layers = {name: model.get_submodule(f"base_model.model.{name}") for name in ours.A}
    root = 2**0.5  # the stack's factors have √s in them
    for name, layer in layers.items():
        bound = (
            layer.lora_A["default"].weight.detach().abs().max()
        )  # both are drawn from the same range
        assert float(start.A[name].abs().max() / root) == pytest.approx(float(bound), rel=0.1)
        layer.lora_A["default"].weight.data = start.A[name][0] / root
    prompts = t5.tokenizer([TEMPLATE.render(e.input) for e in EXAMPLES], padding=True)
    labels = torch.tensor(t5.tokenizer([e.target for e in EXAMPLES], padding=True).input_ids)
    labels[labels == t5.tokenizer.pad_token_id] = -100
    inputs = {
        "input_ids": torch.tensor(prompts.input_ids),
        "attention_mask": torch.tensor(prompts.attention_mask),
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.01)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for _ in range(steps):
        optimiser.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        optimiser.step()
        falling.step()
    for name, layer in layers.items():
        close = {"atol": 1e-4, "rtol": 1e-3}
        torch.testing.assert_close(
            ours.A[name][0] / root, layer.lora_A["default"].weight.data, **close
        )
        torch.testing.assert_close(
            ours.B[name][0] / root, layer.lora_B["default"].weight.data, **close
        )

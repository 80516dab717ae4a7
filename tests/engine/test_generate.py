"""Several adapters write in one batch, and none of them knows of the others."""

from __future__ import annotations

import numpy as np
import pytest

from composer.engine import base_model
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.compose import compose
from composer.engine.evaluate import predict, predict_each
from composer.engine.generate import choose, generate, option_losses
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE, make_adapter
from tests.engine.families import FAMILIES, make_model

WEIGHTS = np.array([[1.4, -1.1], [0.0, 1.0], [0.9, 1.3], [0.0, 0.0]])
INPUTS = ["big", "the old hot", "up", "a good bad new", "left"]
OPTIONS = ["small", "down right", "new", "cold"]


@pytest.fixture(scope="module", params=["bart", "mistral", "gpt2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_model.load(make_model(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def modules(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    root = tmp_path_factory.mktemp("adapters")
    targets = FAMILIES[base.model.config.model_type][2]
    return stacks.load(
        [make_adapter(base, root / str(i), i, target_modules=targets) for i in range(2)], base
    )


@pytest.mark.parametrize("batch_size", [1, 9, 100])
@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_candidates_in_one_batch_write_what_each_writes_alone(
    base: BaseModel, modules: Stack, combination: str, batch_size: int
) -> None:
    factors = compose(WEIGHTS, modules, combination)
    found = generate(base, factors, INPUTS, TEMPLATE, batch_size=batch_size, max_new_tokens=6)
    for answers, weights in zip(found, WEIGHTS, strict=True):
        with slow.merged(base, weights.tolist(), modules, combination):
            assert answers == [slow.written(base, text, TEMPLATE, 6) for text in INPUTS]
    assert found[3] == generate(base, None, INPUTS, TEMPLATE, max_new_tokens=6)[0]
    assert found[0] != found[3]


def test_candidates_in_one_batch_choose_what_each_chooses_alone(
    base: BaseModel, modules: Stack
) -> None:
    factors = compose(WEIGHTS, modules, "sum")
    found = choose(base, factors, INPUTS, TEMPLATE, OPTIONS, batch_size=20)
    alone = [
        choose(base, compose(row[None], modules, "sum"), INPUTS, TEMPLATE, OPTIONS)[0]
        for row in WEIGHTS
    ]
    assert found == alone
    losses = option_losses(base, factors, INPUTS, TEMPLATE, OPTIONS)
    assert losses.shape == (4, 5, 4)
    assert [[OPTIONS[i] for i in row] for row in losses.argmin(dim=2).tolist()] == found


@pytest.mark.parametrize("options", [None, OPTIONS])
def test_the_base_model_stands_beside_adapters_in_one_batch(
    base: BaseModel, modules: Stack, options: list[str] | None
) -> None:
    found = predict_each(
        base, modules, [WEIGHTS[0], None, WEIGHTS[2]], INPUTS, TEMPLATE,
        answer_options=options, max_new_tokens=5,
    )  # fmt: skip
    expected = [
        predict(base, modules, weights, INPUTS, TEMPLATE, answer_options=options, max_new_tokens=5)
        for weights in (WEIGHTS[0], None, WEIGHTS[2])
    ]
    assert found == expected
    nobody = predict_each(
        base, None, [None, None], INPUTS, TEMPLATE, answer_options=options, max_new_tokens=5
    )
    assert nobody == [expected[1], expected[1]]


def test_writing_leaves_the_models_own_settings_alone(base: BaseModel, modules: Stack) -> None:
    before = base.model.generation_config
    stated = before.to_dict()
    generate(base, compose(WEIGHTS, modules, "sum"), INPUTS, TEMPLATE, max_new_tokens=2)
    assert base.model.generation_config is before and before.to_dict() == stated
    assert not any(module._forward_hooks for module in base.model.modules())


def test_no_inputs_have_no_answers(base: BaseModel, modules: Stack) -> None:
    factors = compose(WEIGHTS, modules, "sum")
    assert generate(base, factors, [], TEMPLATE) == [[], [], [], []]
    assert choose(base, factors, [], TEMPLATE, OPTIONS) == [[], [], [], []]


def test_the_same_batch_writes_the_same(base: BaseModel, modules: Stack) -> None:
    factors = compose(WEIGHTS, modules, "sum")
    inputs = [example.input for example in EXAMPLES]
    one, other = (generate(base, factors, inputs, TEMPLATE) for _ in range(2))
    assert one == other

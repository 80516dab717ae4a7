"""Everything an encoder-decoder model can do, on tiny random decoder-only ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.config import SearchConfig
from composer.engine.errors import BadExamples
from composer.engine.evaluate import fresh_lora, predict
from composer.engine.examples import Example, encode
from composer.engine.export import export
from composer.engine.loss import answer_losses
from composer.engine.objective import Objective
from composer.engine.search import search
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE, make_adapter

WEIGHTS = np.array([[0.8, -0.6], [0.0, 1.0], [1.2, 0.3]])
TARGETS = {"llama": ["q_proj", "v_proj"], "gpt2": ["c_attn", "c_fc"]}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest) -> BaseModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def folders(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    targets = TARGETS[base.model.config.model_type]
    return [make_adapter(base, root / str(i), i, target_modules=targets) for i in range(2)]


@pytest.fixture(scope="module")
def modules(base: BaseModel, folders: list[Path]) -> Stack:
    return stacks.load(folders, base)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_counts_loss_on_answers_only_whatever_the_padding(
    base: BaseModel, modules: Stack, side: str, combination: str
) -> None:
    batch = encode(EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=False, padding_side=side)
    assert not batch.attention_mask.all()  # there is padding
    config = SearchConfig(combination=combination)
    found = Objective(base, modules, batch, config).answer_losses(WEIGHTS)
    for losses, weights in zip(found, WEIGHTS, strict=True):
        with slow.merged(base, weights.tolist(), modules, combination):
            rows = slow.answer_losses(base, EXAMPLES, TEMPLATE)
        np.testing.assert_allclose(losses, [sum(row) for row in rows], atol=2e-5)


def test_a_question_alone_and_in_a_batch_gets_the_same_answer(
    base: BaseModel, modules: Stack
) -> None:
    inputs = ["big", "the old good bad up", "hot"]
    together = predict(base, modules, WEIGHTS[0], inputs, TEMPLATE, max_new_tokens=6)
    alone = [
        predict(base, modules, WEIGHTS[0], [text], TEMPLATE, max_new_tokens=6)[0] for text in inputs
    ]
    assert together == alone
    assert all(answer != "" and TEMPLATE.render(text) not in answer
               for text, answer in zip(inputs, together, strict=True))  # fmt: skip


def test_it_writes_token_by_token_what_is_most_likely(base: BaseModel, modules: Stack) -> None:
    (found,) = predict(base, modules, WEIGHTS[0], ["big"], TEMPLATE, max_new_tokens=5)
    ids = base.tokenizer(TEMPLATE.render("big")).input_ids
    start = len(ids)
    with slow.merged(base, WEIGHTS[0].tolist(), modules, "sum"), torch.no_grad():
        while len(ids) < start + 5 and ids[-1] != 1:
            ids.append(int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert found == base.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_it_chooses_the_most_likely_option(base: BaseModel, modules: Stack) -> None:
    options = ["small", "cold down", "new"]
    found = predict(base, modules, WEIGHTS[0], ["big", "a good"], TEMPLATE, answer_options=options)
    for text, choice in zip(["big", "a good"], found, strict=True):
        with slow.merged(base, WEIGHTS[0].tolist(), modules, "sum"):
            rows = slow.answer_losses(base, [Example(text, o) for o in options], TEMPLATE)
        assert choice == options[int(np.argmin([sum(row) for row in rows]))]


def test_the_end_of_the_answer_is_learnt(base: BaseModel) -> None:
    batch = encode([Example("big", "small")], TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    assert batch.labels[0, -2:].tolist() == [base.tokenizer("small").input_ids[0], 1]
    assert batch.answer_tokens.tolist() == [2]


def test_it_exports_what_peft_loads_with_the_same_loss(
    base: BaseModel, modules: Stack, tmp_path: Path
) -> None:
    batch = encode(EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    expected = Objective(base, modules, batch, SearchConfig()).answer_losses(WEIGHTS[:1])
    export(WEIGHTS[0], modules, "sum", tmp_path)
    model = type(base.model).from_pretrained(base.folder).eval()
    loaded = PeftModel.from_pretrained(model, tmp_path).merge_and_unload()
    other = BaseModel(loaded, base.tokenizer, False, base.folder)
    np.testing.assert_allclose(answer_losses(other, None, batch), expected, atol=2e-5)


def test_it_can_be_searched_and_compared(base: BaseModel, modules: Stack) -> None:
    batch = encode(EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    config = SearchConfig(budget=60)
    *_, last = search(Objective(base, modules, batch, config), 2, config)
    zero = float(Objective(base, modules, batch, config)(np.zeros((1, 2)))[0])
    assert last.best_loss < zero
    fresh = fresh_lora(base, EXAMPLES, TEMPLATE, seed=0)
    assert fresh.loss is not None and fresh.loss < zero


def test_it_refuses_an_input_that_leaves_no_room_for_an_answer(
    base: BaseModel, modules: Stack
) -> None:
    with pytest.raises(BadExamples, match="43 tokens.*at most 32"):
        predict(base, modules, WEIGHTS[0], ["big " * 40], TEMPLATE)


def test_it_refuses_prompt_and_answer_that_do_not_fit_together(
    base: BaseModel, modules: Stack
) -> None:
    """Each fits alone; together they have 68 tokens and the model 64 places."""
    long = Example("big " * 25, "small " * 40)
    batch = encode([long], TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    with pytest.raises(BadExamples, match=r"69 tokens \(prompt and answer together\).*at most 64"):
        Objective(base, modules, batch, SearchConfig())
    with pytest.raises(BadExamples, match="prompt and answer together"):
        predict(
            base, modules, WEIGHTS[0], [long.input], TEMPLATE, answer_options=[long.target, "new"]
        )


def test_it_writes_no_further_than_the_model_has_places(base: BaseModel, modules: Stack) -> None:
    inputs = ["big " * 25]
    some = predict(base, modules, WEIGHTS[0], inputs, TEMPLATE, max_new_tokens=36)
    assert predict(base, modules, WEIGHTS[0], inputs, TEMPLATE, max_new_tokens=500) == some

"""Every family: the fast forward is the slow one, and what is exported is what was run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from composer.engine import base_model
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED, encode
from composer.engine.config import SearchConfig
from composer.engine.evaluate import predict
from composer.engine.export import export
from composer.engine.loss import answer_losses
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import make_adapter
from tests.engine.families import EXAMPLES, FAMILIES, TEMPLATE_TEXT, make_model

TEMPLATE = Template(TEMPLATE_TEXT)
WEIGHTS = np.array([[0.8, -0.6], [0.0, 1.0], [1.2, 0.3]])


@pytest.fixture(scope="module", params=list(FAMILIES))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp(request.param)
    return base_model.load(make_model(request.param, folder))


@pytest.fixture(scope="module")
def family(base: BaseModel) -> str:
    kind = str(base.model.config.model_type)
    return "gemma3" if kind == "gemma3_text" else kind


@pytest.fixture(scope="module")
def modules(base: BaseModel, family: str, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    root = tmp_path_factory.mktemp("adapters")
    targets = FAMILIES[family][2]
    return stacks.load(
        [make_adapter(base, root / str(i), i, target_modules=targets) for i in range(2)], base
    )


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_a_population_has_the_losses_of_the_slow_obvious_version(
    base: BaseModel, modules: Stack, combination: str
) -> None:
    batch = encode(EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder)
    assert not batch.attention_mask.all()  # there is padding
    config = SearchConfig(combination=combination)
    found = Objective(base, modules, batch, config).answer_losses(WEIGHTS)
    for losses, weights in zip(found, WEIGHTS, strict=True):
        with slow.merged(base, weights.tolist(), modules, combination):
            rows = slow.answer_losses(base, EXAMPLES, TEMPLATE)
        np.testing.assert_allclose(losses, [sum(row) for row in rows], atol=1e-5)
    assert np.ptp(found.sum(axis=1)) > 0.05  # the candidates do differ


def test_padding_on_either_side_gives_the_same(base: BaseModel, modules: Stack) -> None:
    # BART's encoder counts its positions from the left, padding included.
    sides = ["right"] if base.is_encoder_decoder else ["left", "right"]
    found = []
    for side in sides:
        batch = encode(
            EXAMPLES, TEMPLATE, base.tokenizer,
            is_encoder_decoder=base.is_encoder_decoder, padding_side=side,
        )  # fmt: skip
        found.append(Objective(base, modules, batch, SearchConfig()).answer_losses(WEIGHTS))
    alone = [
        Objective(
            base,
            modules,
            encode([each], TEMPLATE, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder),
            SearchConfig(),
        ).answer_losses(WEIGHTS)
        for each in EXAMPLES
    ]
    for losses in found:
        np.testing.assert_allclose(losses, np.concatenate(alone, axis=1), atol=1e-5)


def test_loss_is_what_the_models_own_loss_says(base: BaseModel) -> None:
    """transformers averages over the label tokens; ours are sums an example."""
    batch = encode(
        EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder,
        padding_side="right",
    )  # fmt: skip
    with torch.inference_mode():
        stated = base.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
        ).loss
    ours = answer_losses(base, None, batch).sum() / batch.answer_tokens.sum()
    assert float(ours) == pytest.approx(float(stated), abs=1e-5)
    labels = batch.labels[batch.labels != IGNORED].tolist()
    lead = "" if base.is_encoder_decoder else " "
    ids = [base.tokenizer(lead + each.target).input_ids for each in EXAMPLES]
    assert set(labels) <= {token for row in ids for token in row} | {base.tokenizer.eos_token_id}


def test_what_is_exported_loads_in_peft_with_the_same_logits(
    base: BaseModel, modules: Stack, tmp_path: Path
) -> None:
    batch = encode(EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder)
    for combination in ("sum", "lorahub"):
        config = SearchConfig(combination=combination)
        expected = Objective(base, modules, batch, config).answer_losses(WEIGHTS[:1])
        folder = tmp_path / combination
        export(WEIGHTS[0], modules, combination, folder)
        model = type(base.model).from_pretrained(base.folder).eval()
        loaded = PeftModel.from_pretrained(model, folder)
        other = BaseModel(
            loaded.get_base_model(), base.tokenizer, base.is_encoder_decoder, base.folder
        )
        np.testing.assert_allclose(answer_losses(other, None, batch), expected, atol=1e-5)


def test_it_writes_what_is_most_likely_token_by_token(base: BaseModel, modules: Stack) -> None:
    inputs = [example.input for example in EXAMPLES]
    found = predict(base, modules, WEIGHTS[0], inputs, TEMPLATE, max_new_tokens=6)
    with slow.merged(base, WEIGHTS[0].tolist(), modules, "sum"):
        expected = [slow.written(base, text, TEMPLATE, 6) for text in inputs]
    assert found == expected

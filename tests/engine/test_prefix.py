"""A beginning that all prompts share is computed once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from composer.engine import base_model, prefix
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch, encode
from composer.engine.config import SearchConfig
from composer.engine.examples import Example
from composer.engine.loss import Chunk, answer_losses
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.stack import Stack
from tests.engine.conftest import make_adapter
from tests.engine.families import DECODER_ONLY, EXAMPLES, FAMILIES, WINDOW, make_model

# Longer and shorter than the window of the models that have one.
INSTRUCTIONS = {
    "long": "the opposite of a good new hot up is the bad old cold down :",
    "short": "the :",
}
WEIGHTS = np.array([[0.8, -0.6], [0.0, 1.0], [1.2, 0.3]])


@pytest.fixture(scope="module", params=DECODER_ONLY)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_model.load(make_model(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def modules(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    root = tmp_path_factory.mktemp("adapters")
    family = str(base.model.config.model_type).removesuffix("_text")
    targets = FAMILIES[family][2]
    return stacks.load(
        [make_adapter(base, root / str(i), i, target_modules=targets) for i in range(2)], base
    )


def encoded(base: BaseModel, instruction: str, side: str | None = None) -> Batch:
    template = Template(f"{instruction} {{input}} :")
    return encode(EXAMPLES, template, base.tokenizer, is_encoder_decoder=False, padding_side=side)


@contextmanager
def counted(base: BaseModel) -> Iterator[list[int]]:
    """Tokens that the model's layers read."""
    seen: list[int] = []
    layer = base.model.get_input_embeddings()
    hook = layer.register_forward_hook(lambda module, args, y: seen.append(args[0].numel()))
    yield seen
    hook.remove()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", list(INSTRUCTIONS))
@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_losses_are_those_of_the_plain_way(
    base: BaseModel, modules: Stack, monkeypatch: pytest.MonkeyPatch,
    combination: str, length: str, side: str,
) -> None:  # fmt: skip
    batch = encoded(base, INSTRUCTIONS[length], side)
    config = SearchConfig(combination=combination)
    monkeypatch.setattr(prefix, "PAYS", 0.0)  # whatever it costs
    with counted(base) as seen:
        found = Objective(base, modules, batch, config).answer_losses(WEIGHTS)
    assert seen[0] == 3 * batch.prefix  # the prefix, once a candidate
    plain = replace(batch, prefix=0)
    monkeypatch.setattr(prefix, "PAYS", 2.0)  # never
    with counted(base) as seen:
        expected = Objective(base, modules, plain, config).answer_losses(WEIGHTS)
    assert seen == [3 * batch.input_ids.numel()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found.sum(axis=1)) > 0.05


def test_prefixes_on_both_sides_of_the_window_are_tried(base: BaseModel) -> None:
    lengths = {name: encoded(base, text).prefix for name, text in INSTRUCTIONS.items()}
    assert lengths["short"] < WINDOW < lengths["long"]


def test_it_is_shared_where_it_spares_much(base: BaseModel, modules: Stack) -> None:
    batch = encoded(base, INSTRUCTIONS["long"])
    B, T = batch.input_ids.shape
    with counted(base) as seen:
        Objective(base, modules, batch, SearchConfig()).answer_losses(WEIGHTS)
    assert seen == [3 * batch.prefix, 3 * B * (T - batch.prefix)]
    assert not prefix.pays(encoded(base, INSTRUCTIONS["short"]).rows(0, 1))
    assert not prefix.pays(replace(batch, prefix=0))


def test_the_base_model_alone_shares_it_too(base: BaseModel) -> None:
    batch = encoded(base, INSTRUCTIONS["long"])
    with counted(base) as seen:
        found = answer_losses(base, None, batch)
    assert seen[0] == batch.prefix
    expected = answer_losses(base, None, replace(batch, prefix=0))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_part_of_the_examples_shares_it(base: BaseModel, modules: Stack) -> None:
    batch = encoded(base, INSTRUCTIONS["long"])
    whole = Objective(base, modules, batch, SearchConfig())
    parts = Objective(base, modules, batch, SearchConfig(), chunk=Chunk(candidates=2, examples=2))
    with counted(base) as seen:
        found = parts(WEIGHTS)
    assert 2 * batch.prefix in seen
    np.testing.assert_allclose(found, whole(WEIGHTS), atol=1e-5)


def test_logits_are_computed_where_labels_are(base: BaseModel, modules: Stack) -> None:
    batch = encoded(base, INSTRUCTIONS["long"])
    seen: list[int] = []
    head = base.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, y: seen.append(y.shape[:-1].numel()))
    Objective(base, modules, batch, SearchConfig()).answer_losses(WEIGHTS)
    hook.remove()
    assert seen == [3, 3 * int(batch.answer_tokens.sum())]


def test_examples_of_very_different_length_share_it_in_groups(
    base: BaseModel, modules: Stack
) -> None:
    ragged = [*EXAMPLES, *(Example(f"big {'good ' * 40} {word}", "new") for word in ("up", "hot"))]
    template = Template(f"{INSTRUCTIONS['long']} {{input}} :")
    batch = encode(ragged, template, base.tokenizer, is_encoder_decoder=False)
    with counted(base) as seen:
        found = Objective(base, modules, batch, SearchConfig()).answer_losses(WEIGHTS)
    assert seen.count(3 * batch.prefix) == 2
    assert sum(seen) < 3 * batch.attention_mask.sum()
    plain = replace(batch, prefix=0)
    expected = Objective(base, modules, plain, SearchConfig()).answer_losses(WEIGHTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_flow_through_it(base: BaseModel, modules: Stack) -> None:
    batch = encoded(base, INSTRUCTIONS["long"])
    gradients = []
    for given in (batch, replace(batch, prefix=0)):
        made = Objective(base, modules, given, SearchConfig())
        w = torch.tensor(WEIGHTS[:1], requires_grad=True)
        made.losses_of(made.compose(w), slice(0, 5)).sum().backward()
        gradients.append(w.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    assert gradients[0] is not None and gradients[0].abs().sum() > 0.1


def test_every_prompt_keeps_a_token_to_answer_from(base: BaseModel) -> None:
    same = [Example("big", "small"), Example("big", "cold hot")]
    batch = encode(same, Template("opposite of {input}"), base.tokenizer, is_encoder_decoder=False)
    length = int(batch.attention_mask[0].sum()) - int(batch.answer_tokens[0])
    assert batch.prefix == length - 1
    with_a_part = [Example("big", "small"), Example("big hot", "cold")]
    assert (
        encode(with_a_part, Template("{input}"), base.tokenizer, is_encoder_decoder=False).prefix
        == len(base.tokenizer("big").input_ids) - 1
    )


def test_a_memory_that_is_not_known_is_left_alone(t5: BaseModel, base: BaseModel) -> None:
    assert prefix.new_cache(t5) is None
    assert prefix.new_cache(base) is not None
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=27, hidden_size=16, state_size=4, num_hidden_layers=2)
    mamba = BaseModel(MambaForCausalLM(config).eval(), base.tokenizer, False, base.folder)
    assert prefix.new_cache(mamba) is None

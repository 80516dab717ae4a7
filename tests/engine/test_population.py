"""The generic path: the model's own forward, with less to do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from composer.engine import base_model, forward, population
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.compose import compose
from composer.engine.errors import IncompatibleModules
from composer.engine.examples import Example, encode
from composer.engine.forward import Prepared
from composer.engine.linear import by_onednn, linear, linear_gelu, linear_plus, linear_times
from composer.engine.population import attached
from composer.engine.prompt import Template
from composer.engine.stack import Stack
from composer.engine.terms import Term
from tests.engine import slow
from tests.engine.conftest import TEMPLATE
from tests.engine.random_stack import make_stack

RAGGED = [
    Example("big", "small"),
    Example("the old good bad up down left right cold", "new"),
    Example("up", "down right"),
    Example("a good", "bad"),
    Example("the is of to a : old new big small up", "cold"),
]
WEIGHTS = np.random.default_rng(0).normal(0, 0.6, (3, 4))
TARGETS = {
    "t5": ("q", "v"),
    "llama": ("q_proj", "v_proj", "down_proj", "lm_head"),
    "gpt2": ("c_attn", "c_fc"),
}


@pytest.fixture(scope="module", params=list(TARGETS))
def base(request: pytest.FixtureRequest) -> BaseModel:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def modules(base: BaseModel) -> Stack:
    return make_stack(base, (2, 3, 1, 2), TARGETS[base.model.config.model_type])


def generic(base: BaseModel, batch: Batch) -> Prepared:
    """Prepared for the model's own forward, T5 or not."""
    prepared = forward.prepare(base, batch)
    prepared._fast = None
    return prepared


def expected(base: BaseModel, modules: Stack, combination: str) -> list[list[float]]:
    found = []
    for weights in WEIGHTS:
        with slow.merged(base, weights.tolist(), modules, combination):
            rows = slow.answer_losses(base, RAGGED, TEMPLATE)
        found.append([sum(row) for row in rows])
    return found


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
@pytest.mark.parametrize("overhead", [0, 3, 1000])
def test_examples_of_any_length_get_the_losses_of_the_slow_obvious_version(
    base: BaseModel,
    modules: Stack,
    combination: str,
    overhead: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = encode(RAGGED, TEMPLATE, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder)
    monkeypatch.setitem(forward.OVERHEAD, "cpu", overhead)
    monkeypatch.setattr("composer.engine.prefix.PAYS", 2.0)  # lengths are the subject here
    prepared = generic(base, batch)
    factors = compose(WEIGHTS, modules, combination)
    with torch.inference_mode():
        found = prepared.losses(factors)
    np.testing.assert_allclose(found, expected(base, modules, combination), atol=1e-5)
    assert prepared._parts is not None
    assert len(prepared._parts) == {0: 4, 3: len(prepared._parts), 1000: 1}[overhead]
    again = prepared.losses(compose(WEIGHTS, modules, combination))
    np.testing.assert_allclose(again.detach(), found, atol=1e-5)  # with a gradient, out of place


def test_the_head_computes_labels_only(
    base: BaseModel, modules: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = encode(RAGGED, TEMPLATE, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder)
    monkeypatch.setattr("composer.engine.prefix.PAYS", 2.0)
    computed: list[int] = []
    head = base.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda m, args, y: computed.append(y[..., 0].numel()))
    try:
        with torch.inference_mode():
            generic(base, batch).losses(compose(WEIGHTS, modules, "lorahub"))
    finally:
        handle.remove()
    assert sum(computed) == int(batch.answer_tokens.sum()) * len(WEIGHTS)


def test_a_head_of_another_shape_is_left_alone(llama: BaseModel) -> None:
    batch = encode(RAGGED, TEMPLATE, llama.tokenizer, is_encoder_decoder=False)
    with torch.inference_mode():
        usual = generic(llama, batch).losses(None)
        model = llama.model
        original = type(model).get_output_embeddings
        try:
            type(model).get_output_embeddings = lambda self: None
            found = generic(llama, batch).losses(None)
        finally:
            type(model).get_output_embeddings = original
    torch.testing.assert_close(found, usual, atol=1e-5, rtol=0)


def test_shared_factors_become_whole_matrices_where_that_costs_less(
    base: BaseModel, modules: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = encode(RAGGED, TEMPLATE, base.tokenizer, is_encoder_decoder=base.is_encoder_decoder)
    factors = compose(WEIGHTS, modules, "sum")
    calls: list[int] = []
    real = population.dense

    def counted(term: Term, weight: Tensor) -> Tensor:
        calls.append(len(weight))
        return real(term, weight)

    monkeypatch.setattr(population, "dense", counted)
    monkeypatch.setattr(population, "pays_dense", lambda *_: True)
    with torch.inference_mode():
        found = generic(base, batch).losses(factors)
    # GPT-2's Conv1D is called as it is, always.
    assert bool(calls) is (base.model.config.model_type != "gpt2")
    np.testing.assert_allclose(found, expected(base, modules, "sum"), atol=1e-5)
    assert not any("forward" in vars(module) for module in base.model.modules())


class Eighth(nn.Module):
    """A linear layer as quantised ones are: not an nn.Linear, and it returns another dtype."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.numbers = nn.Buffer((layer.weight.detach() * 64).round().to(torch.int8))

    @property
    def weight(self) -> Tensor:
        return self.numbers.float() / 64

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def test_layers_that_are_no_linear_are_called_as_they_are(llama: BaseModel) -> None:
    copy = base_model.load(llama.folder)
    modules = make_stack(copy, (2, 1, 2, 2), ("q_proj", "up_proj"))
    plain = base_model.load(llama.folder)
    for name in modules.places:
        layer = copy.layer(name)
        assert isinstance(layer, nn.Linear)
        parent, _, last = name.rpartition(".")
        setattr(copy.model.get_submodule(parent), last, Eighth(layer))
        weight = plain.layer(name).weight
        weight.data = copy.layer(name).weight.clone()
    batch = encode(RAGGED, TEMPLATE, llama.tokenizer, is_encoder_decoder=False)
    for combination in ("sum", "lorahub"):
        factors = compose(WEIGHTS, modules, combination)
        with torch.inference_mode():
            found = generic(copy, batch).losses(factors)
            wanted = generic(plain, batch).losses(factors)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_factors_in_another_dtype_follow_the_layer(llama: BaseModel) -> None:
    stack = make_stack(llama, (2, 2, 2, 2), ("q_proj",))
    half = base_model.load(llama.folder, dtype=torch.bfloat16)
    batch = encode(RAGGED, TEMPLATE, half.tokenizer, is_encoder_decoder=False)
    factors = compose(WEIGHTS, stack, "lorahub")
    with torch.inference_mode():
        rounded, exact = generic(half, batch).losses(factors), generic(llama, batch).losses(factors)
    assert rounded.dtype == torch.float64
    torch.testing.assert_close(rounded, exact, atol=0, rtol=0.05)


@pytest.fixture
def numbers() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        x, w, y = (torch.randn(s, generator=generator) for s in ((2, 5, 8), (6, 8), (2, 5, 6)))
        yield x, w, y


def test_fused_products_are_the_plain_ones(numbers: tuple[Tensor, Tensor, Tensor]) -> None:
    x, w, y = numbers
    plain = nn.functional.linear(x, w)
    torch.testing.assert_close(linear(x, w), plain)
    torch.testing.assert_close(linear(x, w, y[0, 0]), plain + y[0, 0])
    torch.testing.assert_close(linear_plus(x, w, y), plain + y)
    torch.testing.assert_close(linear_times(x, w, y), plain * y)
    torch.testing.assert_close(
        linear_gelu(x, w), nn.functional.gelu(plain, approximate="tanh"), atol=1e-6, rtol=1e-5
    )


def test_layers_get_their_own_forward_back(llama: BaseModel) -> None:
    ids = torch.tensor([[3, 4, 5]])
    with torch.inference_mode():
        before = llama.model(ids).logits
        with pytest.raises(ZeroDivisionError), by_onednn(llama.model):
            torch.testing.assert_close(llama.model(ids).logits, before, atol=1e-5, rtol=0)
            raise ZeroDivisionError
        assert (llama.model(ids).logits == before).all()


def test_rows_that_were_reordered_are_refused(llama: BaseModel) -> None:
    factors = compose(np.ones((2, 1)), make_stack(llama, (2,), ("q_proj",)), "lorahub")
    with (
        torch.inference_mode(),
        attached(llama, factors, rows=6),
        pytest.raises(IncompatibleModules, match="reads 4 rows instead of 6"),
    ):
        llama.model(torch.ones(4, 3, dtype=torch.long))


def test_a_template_of_its_own_is_no_prefix_of_other_lengths(llama: BaseModel) -> None:
    """One example alone, and the same among others, have the same loss."""
    template = Template("{input} :")
    whole = encode(RAGGED, template, llama.tokenizer, is_encoder_decoder=False)
    with torch.inference_mode():
        together = generic(llama, whole).losses(None)[0]
        for place, example in enumerate(RAGGED):
            one = encode([example], template, llama.tokenizer, is_encoder_decoder=False)
            alone = generic(llama, one).losses(None)[0, 0]
            assert float(together[place]) == pytest.approx(float(alone), abs=1e-5)

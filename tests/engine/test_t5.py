"""The T5 path computes what the library's own forward does, for every kind of T5 and adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from composer.engine import forward, t5
from composer.engine.base_model import BaseModel
from composer.engine.batch import IGNORED, Batch
from composer.engine.compose import Factors, compose
from tests.engine.random_stack import EVERY, make_stack

SIZES: dict[str, Any] = {
    "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2,
    "num_decoder_layers": 3, "num_heads": 3, "pad_token_id": 0, "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12,
}  # fmt: skip
KINDS = {
    "t5": lambda: T5ForConditionalGeneration(T5Config(**SIZES)),
    "flan-t5": lambda: T5ForConditionalGeneration(
        T5Config(**SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "gated-silu": lambda: T5ForConditionalGeneration(
        T5Config(**SIZES, feed_forward_proj="gated-silu")
    ),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**SIZES)),
}


def make_base(kind: str, dtype: torch.dtype = torch.float32, untied: bool = False) -> BaseModel:
    torch.manual_seed(0)
    model = KINDS[kind]().eval().requires_grad_(False)
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(40, 16) * 0.3, requires_grad=False)
    return BaseModel(model.to(dtype), None, True, Path(kind))


def make_batch(lengths: list[int], answers: list[int], side: str = "right") -> Batch:
    generator = torch.Generator().manual_seed(2)
    B, T, L = len(lengths), max(lengths), max(answers)
    ids = torch.randint(1, 40, (B, T), generator=generator)
    labels = torch.randint(1, 40, (B, L), generator=generator)
    places = torch.arange(T)
    real = [places < n if side == "right" else places >= T - n for n in lengths]
    mask = torch.stack(real).long()
    for b, n in enumerate(answers):
        labels[b, n:] = IGNORED
    return Batch(ids * mask, mask, labels, True)


RAGGED = make_batch([5, 14, 9, 9, 1], [3, 1, 4, 2, 3])
WEIGHTS = np.random.default_rng(0).normal(0, 0.7, (4, 3))


def by_path(base: BaseModel, factors: Factors | None, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same losses by the T5 path and by the model's own forward."""
    with torch.inference_mode():
        fast = t5.prepare(base, batch)
        assert fast is not None and fast.knows(factors)
        slow = forward.Prepared(base, batch)
        slow._fast = None
        return fast.losses(factors), slow.losses(factors)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("combination", ["sum", "lorahub", "linear"])
@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 4, 2)])
def test_every_linear_layer_may_be_adapted(
    kind: str, combination: str, ranks: tuple[int, ...]
) -> None:
    if combination == "linear" and len(set(ranks)) > 1:
        ranks = (3, 3, 3)  # PEFT's takes one rank only
    base = make_base(kind)
    factors = compose(WEIGHTS, make_stack(base, ranks), combination)
    fast, slow = by_path(base, factors, RAGGED)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)
    assert float(slow.sum(dim=1).std()) > 0.01  # the candidates do differ


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("untied", [False, True])
def test_the_base_model_alone(kind: str, untied: bool) -> None:
    fast, slow = by_path(make_base(kind, untied=untied), None, RAGGED)
    assert fast.shape == (1, 5)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("target", EVERY)
@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_one_kind_of_layer_alone(target: str, combination: str) -> None:
    base = make_base("flan-t5" if target in ("wi_0", "wi_1") else "t5")
    factors = compose(WEIGHTS, make_stack(base, (2, 3, 1), (target,)), combination)
    torch.testing.assert_close(*by_path(base, factors, RAGGED), atol=1e-5, rtol=0)


@pytest.mark.parametrize("answers", [[1, 1], [30, 2]])  # few labels go to the states; many do not
@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_both_ways_through_the_cross_attention(answers: list[int], combination: str) -> None:
    base = make_base("flan-t5")
    batch = make_batch([40, 21], answers)
    fast = t5.prepare(base, batch)
    assert fast is not None and fast._few_labels() is (answers == [1, 1])
    factors = compose(WEIGHTS, make_stack(base, (2, 2, 2)), combination)
    torch.testing.assert_close(*by_path(base, factors, batch), atol=2e-5, rtol=0)


@pytest.mark.parametrize("count", [3, 40])  # 40 modules of rank 4 are more than D = 16
def test_many_modules_are_mixed_into_whole_matrices(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("flan-t5")
    ranks = tuple(1 + n % 4 for n in range(count))
    weights = np.random.default_rng(3).normal(0, 1 / count, (5, count))
    factors = compose(weights, make_stack(base, ranks), "sum")
    thin, slow = by_path(base, replace(factors, owner=None), RAGGED)
    for part in ("terms.READ", "terms.CACHED"):  # whatever is cheaper in real sizes
        monkeypatch.setattr(f"composer.engine.{part}", 1)
    monkeypatch.setattr(
        "composer.engine.products.pays_dense", lambda term, rows: bool(term.owner is not None)
    )
    dense, _ = by_path(base, factors, RAGGED)
    torch.testing.assert_close(dense, slow, atol=1e-5, rtol=0)
    torch.testing.assert_close(thin, slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
def test_it_is_the_same_whatever_goes_through_a_layer_at_once(
    combination: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_base("flan-t5")
    factors = compose(WEIGHTS, make_stack(base, (2, 2, 2)), combination)
    whole, _ = by_path(base, factors, RAGGED)
    monkeypatch.setattr(t5, "ROWS", 1)
    monkeypatch.setattr(t5, "LOGITS", 1)
    pieces, _ = by_path(base, factors, RAGGED)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    again, _ = by_path(base, factors, RAGGED)
    assert (again == pieces).all()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=5),
    st.sampled_from(["left", "right"]),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.sampled_from(["sum", "lorahub"]),
    st.integers(1, 3),
)
def test_any_lengths_ranks_and_candidates(
    sizes: list[tuple[int, int]], side: str, ranks: list[int], combination: str, P: int
) -> None:
    base = make_base("flan-t5")
    batch = make_batch([n for n, _ in sizes], [n for _, n in sizes], side)
    weights = np.random.default_rng(P).normal(0, 0.5, (P, len(ranks)))
    factors = compose(weights, make_stack(base, tuple(ranks)), combination)
    torch.testing.assert_close(*by_path(base, factors, batch), atol=2e-5, rtol=0)


@pytest.mark.parametrize("wo_in_float32", [False, True])
def test_bfloat16_stays_near_float32(wo_in_float32: bool) -> None:
    """bfloat16 has 8 bits: a loss may differ by a few parts in a hundred."""
    exact, rounded = make_base("flan-t5"), make_base("flan-t5", torch.bfloat16)
    if wo_in_float32:
        for name, module in rounded.model.named_modules():
            if name.endswith(".wo"):
                module.float()
    stack = make_stack(exact, (2, 2, 2))
    for combination in ("sum", "lorahub"):
        factors = compose(WEIGHTS, stack, combination)
        fast, slow = by_path(rounded, factors, RAGGED)
        true, _ = by_path(exact, factors, RAGGED)
        torch.testing.assert_close(fast, true, atol=0, rtol=0.03)
        torch.testing.assert_close(fast, slow, atol=0, rtol=0.03)
        assert fast.dtype == torch.float64


def test_what_is_unusual_goes_through_the_models_own_forward() -> None:
    base = make_base("t5")
    assert t5.prepare(base, RAGGED) is not None
    handle = base.model.decoder.block[0].register_forward_hook(lambda *_: None)
    assert t5.prepare(base, RAGGED) is None
    handle.remove()
    holes = RAGGED.attention_mask.clone()
    holes[1, 1] = 0
    assert t5.prepare(base, replace(RAGGED, attention_mask=holes)) is None
    assert t5.prepare(make_base("t5", torch.float16), RAGGED) is None

    class Other(torch.nn.Linear):
        pass

    attention = base.model.encoder.block[1].layer[0].SelfAttention
    attention.q = Other(16, 12, bias=False)
    assert t5.prepare(base, RAGGED) is None


def test_a_gradient_goes_through_the_models_own_forward() -> None:
    base = make_base("flan-t5")
    stack = make_stack(base, (2, 2, 2))
    prepared = forward.prepare(base, RAGGED)
    with torch.inference_mode():
        before = prepared.losses(compose(WEIGHTS, stack, "sum"))
    w = torch.tensor(WEIGHTS, dtype=torch.float32, requires_grad=True)
    losses = prepared.losses(compose(w, stack, "sum"))
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), before, atol=1e-5, rtol=0)
    assert w.grad is not None and float(w.grad.abs().min()) > 0

"""A first look in 8 bits, and what is measured again after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from composer.engine import base_model, int8
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import encode
from composer.engine.linear import linear, linear_gelu, linear_plus, linear_times
from composer.engine.screening import MORE, screen_folders, screen_stack, settled
from tests.engine.conftest import EXAMPLES, TEMPLATE, make_adapter, make_llama, make_t5

N, WANTED = 12, 2


@pytest.fixture(scope="module", params=["t5", "llama"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("wide")
    if request.param == "t5":
        make_t5(folder, d_model=256, d_kv=64, d_ff=256, feed_forward_proj="gated-gelu")
    else:
        make_llama(folder, hidden_size=256, intermediate_size=256, initializer_range=0.02)
    return base_model.load(folder)


@pytest.fixture(scope="module")
def adapters(wide: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    targets = ["q", "v"] if wide.is_encoder_decoder else ["q_proj", "v_proj"]
    return [
        make_adapter(wide, root / f"m{n}", n, target_modules=targets, lora_alpha=1 + n % 4)
        for n in range(N)
    ]


@pytest.fixture
def vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same choice on every processor; without VNNI 8 bits are right as well, only slower."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)


@pytest.mark.parametrize("shape", [(3, 256, 300), (700, 64, 17), (2, 5, 320, 256)])
def test_a_product_is_that_of_the_rounded_numbers(shape: tuple[int, ...]) -> None:
    *rows, d_in, d_out = shape
    torch.manual_seed(1)
    x, weight = torch.randn(*rows, d_in) * 3, torch.randn(d_out, d_in)
    x[..., 0, :] = 0
    x[..., -1, 7] = 100  # an outlier makes its own row coarse, and no other
    exact = x @ weight.T
    found = int8.Int8.of(weight).product(x)
    step_x = x.abs().amax(-1, keepdim=True).double() / 127
    step_w = weight.abs().amax(-1, keepdim=True).double() / 127
    rounded_x = (x / step_x.clamp(min=1e-30)).round() * step_x
    rounded_w = (weight / step_w).round() * step_w
    torch.testing.assert_close(found.double(), rounded_x @ rounded_w.T, atol=2e-3, rtol=2e-3)
    plain = [0, -1] if len(rows) == 1 else [(..., 0), (..., -1)]
    off = (found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp(min=1e-30)
    for place in plain:
        off[place] = 0
    assert 0 < off.max() < 0.03
    assert not found[..., 0, :].any()


def test_what_follows_a_product_follows_it_in_8_bits_too(wide: BaseModel) -> None:
    layer = next(m for m in wide.model.modules() if type(m) is torch.nn.Linear)
    x, y = torch.randn(4, 256), torch.randn(4, layer.out_features)
    with torch.inference_mode(), int8.in_8_bits(wide):
        rough = int8.of(layer.weight)
        assert rough is not None
        product = rough.product(x)
        assert torch.equal(linear(x, layer.weight, y[0]), product + y[0])
        assert torch.equal(linear_plus(x, layer.weight, y), y + product)
        assert torch.equal(linear_times(x, layer.weight, y), y * product)
        expected = torch.nn.functional.gelu(product, approximate="tanh")
        assert torch.equal(linear_gelu(x, layer.weight), expected)
    assert int8.of(layer.weight) is None


def test_it_is_a_little_off_inside_and_exact_again_outside(
    wide: BaseModel, adapters: list[Path]
) -> None:
    batch = encode(EXAMPLES, TEMPLATE, wide.tokenizer, is_encoder_decoder=wide.is_encoder_decoder)
    stack = stacks.load(adapters, wide)
    before = screen_stack(wide, stack, batch).losses
    with int8.in_8_bits(wide):
        inside = screen_stack(wide, stack, batch).losses
        head = wide.model.get_output_embeddings()
        assert int8.of(head.weight) is None
    off = np.abs(inside - before).max()
    assert 0 < off < 0.05 * before.max()
    assert np.array_equal(screen_stack(wide, stack, batch).losses, before)


def test_the_best_are_those_of_full_precision(
    wide: BaseModel, adapters: list[Path], vnni: None
) -> None:
    batch = encode(EXAMPLES, TEMPLATE, wide.tokenizer, is_encoder_decoder=wide.is_encoder_decoder)
    exact = screen_folders(adapters, wide, batch)
    steps: list[tuple[int, int]] = []
    found = screen_folders(
        adapters, wide, batch, best=WANTED, at_once=5, progress=lambda *step: steps.append(step)
    )
    assert found.top(WANTED) == exact.top(WANTED)
    assert found.ranking()[:WANTED] == exact.ranking()[:WANTED]
    known = sorted(set(range(N)) - found.rough)
    assert set(found.top(WANTED)) <= set(known) and found.rough
    np.testing.assert_allclose(found.losses[known], exact.losses[known], atol=1e-5)
    assert found.again == len(known) and found.cost == N + len(known)
    assert steps == sorted(steps) and steps[-1] == (N, N)
    stack = stacks.load(adapters, wide)
    assert screen_stack(wide, stack, batch, best=WANTED).top(WANTED) == exact.top(WANTED)


def test_one_that_cannot_be_loaded_is_refused_once(
    wide: BaseModel, adapters: list[Path], tmp_path: Path, vnni: None
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{}", encoding="utf-8")
    batch = encode(EXAMPLES, TEMPLATE, wide.tokenizer, is_encoder_decoder=wide.is_encoder_decoder)
    found = screen_folders([tmp_path / "broken", *adapters], wide, batch, best=WANTED)
    assert list(found.refused) == ["broken"]
    assert 0 not in found.top(N + 1) and len(found.top(WANTED)) == WANTED
    assert 0 not in found.rough and found.cost == N + found.again
    assert found.again == N - len(found.rough)


def test_few_modules_narrow_layers_and_other_processors_get_no_first_look(
    wide: BaseModel, t5: BaseModel, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = encode(EXAMPLES, TEMPLATE, wide.tokenizer, is_encoder_decoder=wide.is_encoder_decoder)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert int8.pays(wide) and not int8.pays(t5)
    assert not screen_folders(adapters, wide, batch, best=N // 2).rough
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert not int8.pays(wide)
    assert not screen_folders(adapters, wide, batch, best=1).rough


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(-1, 1)), min_size=1, max_size=30),
    st.integers(1, 8),
)
def test_whoever_is_no_more_wrong_than_those_measured_is_never_missed(
    pairs: list[tuple[float, float]], best: int
) -> None:
    exact = np.array([loss for loss, _ in pairs])
    first_look = exact + np.array([error for _, error in pairs])
    asked: list[int] = []

    def again(places: list[int]) -> np.ndarray:
        asked.extend(places)
        return exact[places]

    found = settled(first_look, again, best)
    known = ~np.isnan(found)
    assert len(asked) == len(set(asked)) == known.sum() >= min(best + MORE, len(pairs))
    assert np.array_equal(found[known], exact[known])
    error = np.abs(first_look - exact)
    if error[~known].max(initial=0) <= error[known].max():
        chosen = np.sort(found[known])[:best]
        np.testing.assert_allclose(chosen, np.sort(exact)[:best], atol=1e-9)


def test_a_first_look_that_misleads_is_put_right() -> None:
    exact = np.array([5.0, *range(10, 16), 1.0, np.inf])
    first_look = np.array([0.5, *range(10, 16), 17.0, np.inf])
    found = settled(first_look, lambda places: exact[places], 1)
    assert np.nanargmin(found) == 0  # 4.5 off, and nobody could guess that one is 16 off
    first_look[7] = 11.5
    found = settled(first_look, lambda places: exact[places], 1)
    assert np.nanargmin(found) == 7
    assert np.isnan(found[8])


def test_what_can_no_longer_be_measured_is_infinite() -> None:
    found = settled(np.arange(9.0), lambda places: np.full(len(places), np.inf), 1)
    assert np.isinf(found[:5]).all() and not np.isfinite(found).any()


def test_it_refuses_to_look_for_none(wide: BaseModel, adapters: list[Path]) -> None:
    batch = encode(EXAMPLES, TEMPLATE, wide.tokenizer, is_encoder_decoder=wide.is_encoder_decoder)
    with pytest.raises(ValueError, match="best is 0"):
        screen_folders(adapters, wide, batch, best=0)

"""Many modules, each measured alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch
from composer.engine.config import SearchConfig
from composer.engine.loss import Chunk
from composer.engine.objective import Objective
from composer.engine.screening import screen, screen_folders, screen_stack
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE, make_adapter

SMALL = Chunk(candidates=2, examples=3)


@pytest.fixture(scope="module")
def mixed(t5: BaseModel, adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The usual four, and two of other ranks and layers."""
    root = tmp_path_factory.mktemp("mixed")
    others = [
        make_adapter(t5, root / "wide", 5, r=5),
        make_adapter(t5, root / "narrow", 6, r=1, target_modules=["q", "wo"]),
    ]
    return stacks.load([*adapters, *others], t5)


@pytest.mark.parametrize("chunk", [None, SMALL])
def test_it_gives_each_module_the_loss_it_has_alone(
    t5: BaseModel, mixed: Stack, batch: Batch, chunk: Chunk | None
) -> None:
    found = screen_stack(t5, mixed, batch, chunk=chunk)
    assert found.names == mixed.names and found.cost == 6
    for n, single in enumerate(np.eye(6).tolist()):
        with slow.merged(t5, single, mixed, "sum"):
            expected = [np.mean(row) for row in slow.answer_losses(t5, EXAMPLES, TEMPLATE)]
        np.testing.assert_allclose(found.losses[n], expected, atol=2e-5)


@pytest.mark.parametrize("combination", ["sum", "lorahub"])
@pytest.mark.parametrize("blocks", ["all", "sides"])
@pytest.mark.parametrize("reduction", ["token", "example"])
def test_it_is_what_the_search_sees_of_the_single_modules(
    t5: BaseModel, modules: Stack, batch: Batch, combination: str, blocks: str, reduction: str
) -> None:
    config = SearchConfig(combination=combination, blocks=blocks, reduction=reduction)
    objective = Objective(t5, modules, batch, config)
    singles = np.tile(np.eye(4), 2 if blocks == "sides" else 1)
    found = screen(objective)
    np.testing.assert_allclose(found.losses, objective.example_losses(singles), atol=1e-5)
    np.testing.assert_allclose(found.loss(), objective.task_loss(singles), atol=1e-6)


def test_it_ranks_by_the_answer_options_where_the_search_does(
    t5: BaseModel, modules: Stack
) -> None:
    options = [*(each.target for each in EXAMPLES), "left"]
    config = SearchConfig(objective="options", blocks="sides")
    objective = Objective.of(t5, modules, EXAMPLES, TEMPLATE, config, options=options)
    steps: list[tuple[int, int]] = []
    found = screen(objective, lambda *step: steps.append(step))
    singles = np.tile(np.eye(4), 2)
    np.testing.assert_allclose(found.losses, objective.example_losses(singles), atol=1e-6)
    np.testing.assert_allclose(found.loss(), objective.task_loss(singles), atol=1e-6)
    assert steps[-1] == (4, 4) and found.cost == 4


def test_it_ranks_for_any_part_of_the_examples(t5: BaseModel, mixed: Stack, batch: Batch) -> None:
    found = screen_stack(t5, mixed, batch)
    objective = Objective(t5, mixed, batch, SearchConfig())
    losses = objective.example_losses(np.eye(6))
    rankings = []
    for rows in (None, [0], [1, 4], [0, 1, 2, 3]):
        reduced = objective.reduce(losses, None if rows is None else np.array(rows))
        np.testing.assert_allclose(found.loss(rows), reduced, atol=1e-6)
        assert found.ranking(rows) == np.argsort(reduced, kind="stable").tolist()
        assert found.top(3, rows) == sorted(found.ranking(rows)[:3])
        rankings.append(found.ranking(rows))
    assert len({tuple(ranking) for ranking in rankings}) > 1


def test_modules_that_do_not_fit_together_are_measured_in_turns(
    t5: BaseModel, adapters: list[Path], batch: Batch
) -> None:
    whole = screen_stack(t5, stacks.load(adapters, t5), batch)
    steps: list[tuple[int, int]] = []
    found = screen_folders(
        adapters, t5, batch, at_once=3, progress=lambda *step: steps.append(step)
    )
    np.testing.assert_allclose(found.losses, whole.losses, atol=1e-5)
    assert found.names == whole.names and found.cost == 4
    assert steps[-1] == (4, 4)
    assert steps == sorted(steps) and len(steps) >= 2


def test_a_module_that_cannot_be_loaded_is_named_and_never_chosen(
    t5: BaseModel, gpt2: BaseModel, adapters: list[Path], batch: Batch, tmp_path: Path
) -> None:
    other = make_adapter(gpt2, tmp_path / "other", 0, target_modules=["c_attn"])
    broken = shutil.copytree(adapters[0], tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"no adapter")
    folders = [other, *adapters[:2], broken, *adapters[2:]]
    steps: list[tuple[int, int]] = []
    found = screen_folders(folders, t5, batch, at_once=4, progress=lambda *step: steps.append(step))
    assert set(found.refused) == {"other", "broken"}
    assert "c_attn" in found.refused["other"]
    assert found.cost == 4 and steps[-1] == (6, 6)
    assert np.isinf(found.losses[[0, 3]]).all()
    whole = screen_stack(t5, stacks.load(adapters, t5), batch)
    np.testing.assert_allclose(found.losses[[1, 2, 4, 5]], whole.losses, atol=1e-5)
    assert sorted(found.ranking()) == [1, 2, 4, 5] == found.top(6)
    nothing = screen_folders([other, broken], t5, batch)
    assert nothing.ranking() == [] and nothing.cost == 0


def test_progress_may_end_it(t5: BaseModel, mixed: Stack, batch: Batch) -> None:
    class Stopped(Exception):
        pass

    done: list[int] = []

    def stop(so_far: int, of: int) -> None:
        done.append(so_far)
        if so_far >= 4:
            raise Stopped

    with pytest.raises(Stopped):
        screen_stack(t5, mixed, batch, chunk=SMALL, progress=stop)
    assert done == [2, 4]


def test_a_loss_that_is_not_finite_ranks_nowhere(
    t5: BaseModel, modules: Stack, batch: Batch
) -> None:
    rows = modules.rows.clone()
    rows[1] = 1e38
    found = screen_stack(t5, replace(modules, rows=rows), batch)
    assert sorted(found.ranking()) == [0, 2, 3]

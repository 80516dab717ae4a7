"""Every method on a tiny model: what is measured is what the engine computes, and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from composer.bbh import measure, split
from composer.bbh.methods import METHODS, Readable
from composer.bbh.protocol import Protocol, setting
from composer.bbh.results import Results
from composer.bbh.rows import FILE, Row, Rows
from composer.bbh.split import BadBenchmark, BenchTask
from composer.engine import base_model, evaluate, in_context, screening
from composer.engine.base_model import BaseModel
from composer.engine.batch import encode
from composer.engine.config import as_in_the_paper, recommended
from composer.engine.contenders import (
    Contender,
    best_single_scaled,
    randomised_stack,
    uniform,
    uniform_scaled,
)
from composer.engine.examples import Example
from composer.engine.fresh_lora import fresh_lora
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.search import search
from composer.engine.stack import Stack
from composer.workbench import Workbench
from tests.composer.bbh_files import INPUTS, some_examples, write
from tests.engine.conftest import make_adapter, make_llama, make_t5

PROTOCOL = Protocol(shots=4, test=24, draws=2, modules=3, ranked=2)
TEMPLATE = Template("opposite of {input} :")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A base model that says the first word of some inputs, and modules that disturb it."""
    root = tmp_path_factory.mktemp("bbh")
    base = base_model.load(make_t5(root / "base"))
    teach(base, [Example(text, text.split()[0]) for text in INPUTS])
    base.model.save_pretrained(root / "base")
    for place in range(4):
        make_adapter(base, root / "modules" / f"m{place}", 100 + place, lora_alpha=8)
    return Workbench.open(root / "base", root / "modules")


def teach(base: BaseModel, examples: list[Example]) -> None:
    """Not to the end: what it knows already would leave nothing to measure."""
    batch = encode(examples, TEMPLATE, base.tokenizer)
    model = base.model.requires_grad_(True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(70):
        some = torch.randint(len(batch), (32,), generator=generator)
        given = {name: getattr(batch, name)[some] for name in ("input_ids", "attention_mask")}
        optimiser.zero_grad()
        model(**given, labels=batch.labels[some]).loss.backward()
        optimiser.step()
    model.requires_grad_(False)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[BenchTask]:
    folder = tmp_path_factory.mktemp("tasks")
    examples = [Example(text, text.split()[0]) for text in INPUTS[::2][:150]]
    write(folder / "first.json", examples)
    return split.read_folder(folder, test=PROTOCOL.test, seed=PROTOCOL.seed)


def readable(bench: Workbench, tasks: list[BenchTask]) -> list[Readable]:
    found, refused = measure.as_read(tasks, bench.base, TEMPLATE, PROTOCOL)
    assert refused == {}
    return found


class Stopped(Exception):
    pass


def measured(
    bench: Workbench,
    tasks: list[BenchTask],
    folder: Path,
    *,
    stop_at: int | None = None,
    protocol: Protocol = PROTOCOL,
    methods: list[str] | None = None,
) -> Rows:
    def on_progress(done: int, total: int, words: str) -> None:
        if done == stop_at:
            raise Stopped

    rows = Rows(folder, setting(bench, protocol, TEMPLATE))
    measure.measure(
        bench,
        readable(bench, tasks),
        TEMPLATE,
        protocol,
        methods or list(METHODS),
        rows,
        on_progress,
    )
    return rows


@pytest.fixture(scope="module")
def whole(
    bench: Workbench, tasks: list[BenchTask], tmp_path_factory: pytest.TempPathFactory
) -> Rows:
    return measured(bench, tasks, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def results(bench: Workbench, tasks: list[BenchTask], whole: Rows) -> Results:
    return Results(readable(bench, tasks), list(METHODS), PROTOCOL, whole, len(bench), {})


def facts(rows: Rows) -> list[dict[str, Any]]:
    """Everything of every row but its time."""
    return [{**vars(row), "seconds": None} for row in rows]


# --- the figures ---------------------------------------------------------------------------------


class ByHand:
    """One task and draw, with the engine alone."""

    def __init__(self, bench: Workbench, task: BenchTask, draw: int) -> None:
        self.base, self.stack, self.test, self.draw = bench.base, bench.stack, task.test, draw
        self.shots = split.drawn_examples(task.pool, 4, seed=42, draw=draw, without=frozenset())
        self.modules = bench.stack.subset(split.drawn_modules(4, 3, seed=42, draw=draw))

    def objective(self, stack: Stack) -> Objective:
        return Objective.of(self.base, stack, self.shots, TEMPLATE, recommended())

    def share(self, found: Contender) -> float:
        return self.exact(found.stack, found.weights, found.combination)

    def exact(self, stack: Stack | None, weights: Any, combination: str = "sum") -> float:
        inputs = [each.input for each in self.test]
        said = evaluate.predict(self.base, stack, weights, inputs, TEMPLATE, combination)
        return evaluate.score(said, [each.target for each in self.test]).value

    def searched(self, stack: Stack, config: Any) -> float:
        objective = Objective.of(self.base, stack, self.shots, TEMPLATE, config)
        *_, last = search(objective, len(stack), config)
        return self.exact(stack, last.best_weights, config.combination)

    def shown(self) -> float:
        inputs = [each.input for each in self.test]
        shares = []
        for order in split.orders(self.shots, 3, seed=42, draw=self.draw):
            found = in_context.k_shot(self.base, order, inputs, TEMPLATE)
            said = evaluate.predict(self.base, None, None, found.prompts, found.template)
            shares.append(evaluate.score(said, [each.target for each in self.test]).value)
        return sum(shares) / len(shares)

    def ranked(self) -> float:
        found = screening.screen(self.objective(self.stack))
        return self.searched(self.stack.subset(found.top(2)), recommended(seed=self.draw))


BY_HAND: dict[str, Callable[[ByHand], float]] = {
    "zero_shot": lambda by: by.exact(None, None),
    "in_context": ByHand.shown,
    "best_single": lambda by: by.share(best_single_scaled(by.objective(by.stack))),
    "uniform": lambda by: by.share(uniform(by.modules)),
    "uniform_scaled": lambda by: by.share(uniform_scaled(by.objective(by.modules))),
    "fresh_lora": lambda by: by.share(fresh_lora(by.base, by.shots, TEMPLATE, seed=by.draw)),
    "lorahub": lambda by: by.searched(by.modules, as_in_the_paper(seed=by.draw)),
    "randomised": lambda by: by.searched(
        randomised_stack(by.modules, by.draw), as_in_the_paper(seed=by.draw)
    ),
    "ranked": ByHand.ranked,
}


@pytest.mark.parametrize("method", list(METHODS))
def test_the_tables_figures_are_what_the_engine_computes(
    bench: Workbench, results: Results, method: str
) -> None:
    for task in results.tasks:
        shares = [BY_HAND[method](ByHand(bench, task.task, draw)) for draw in range(2)]
        cell = results.cell(task, method)
        assert cell.mean == pytest.approx(sum(shares) / 2)
        assert cell.best == pytest.approx(max(shares))
        assert cell.low <= cell.mean <= cell.high


def test_the_figures_differ(results: Results) -> None:
    """Or the test above would hold little."""
    found = {method: results.mean(method).mean for method in METHODS}
    assert 0 < found["zero_shot"] < 1
    assert len({round(each, 6) for each in found.values()}) >= 4


def test_every_method_is_told_with_what_it_chose(whole: Rows, bench: Workbench) -> None:
    by_method: dict[str, list[Row]] = {}
    for row in whole:
        by_method.setdefault(row.method, []).append(row)
    assert {name: len(rows) for name, rows in by_method.items()} == {
        name: 2 if method.is_drawn else 1 for name, method in METHODS.items()
    }
    assert {row.draw for row in by_method["zero_shot"]} == {None}
    assert {len(row.hits) for row in by_method["in_context"]} == {3}
    assert all(row.detail["shots"] == 4 for row in by_method["in_context"])
    assert all(row.detail["module"] in bench.stack.names for row in by_method["best_single"])
    assert all(set("".join(row.hits)) <= set("01") for row in whole)
    assert all(len(run) == PROTOCOL.test for row in whole for run in row.hits)


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 5])
def test_an_interrupted_run_goes_on_and_has_the_same_rows(
    bench: Workbench, tasks: list[BenchTask], whole: Rows, tmp_path: Path, stop_at: int
) -> None:
    some = ["zero_shot", "best_single", "uniform_scaled", "lorahub"]
    expected = [row for row in facts(whole) if row["method"] in some]
    with pytest.raises(Stopped):
        measured(bench, tasks, tmp_path, methods=some, stop_at=stop_at)
    before = (tmp_path / FILE).read_bytes()
    assert before.count(b"\n") == stop_at
    cut = '{"setting": "größ'.encode()[:-1]  # as a kill leaves it, in a letter
    (tmp_path / FILE).write_bytes(before + cut)
    assert facts(measured(bench, tasks, tmp_path, methods=some)) == expected
    assert (tmp_path / FILE).read_bytes().startswith(before)
    assert facts(Rows(tmp_path, setting(bench, PROTOCOL, TEMPLATE))) == expected


def test_what_is_there_is_not_measured_again_and_more_draws_are_added(
    bench: Workbench, tasks: list[BenchTask], tmp_path: Path
) -> None:
    few = ["zero_shot", "uniform"]
    measured(bench, tasks, tmp_path, methods=few)
    before = (tmp_path / FILE).read_bytes()
    measured(bench, tasks, tmp_path, methods=few)
    assert (tmp_path / FILE).read_bytes() == before
    more = Protocol(**{**vars(PROTOCOL), "draws": 3})
    measured(bench, tasks, tmp_path, methods=few, protocol=more)
    added = (tmp_path / FILE).read_bytes().removeprefix(before)
    assert [json.loads(line)["draw"] for line in added.splitlines()] == [2]


@pytest.mark.parametrize("change", [{"seed": 43}, {"shots": 3}, {"modules": 2}])
def test_rows_of_another_setting_are_not_used(
    bench: Workbench, tasks: list[BenchTask], tmp_path: Path, change: dict[str, int]
) -> None:
    measured(bench, tasks, tmp_path, methods=["zero_shot"])
    other = Protocol(**{**vars(PROTOCOL), **change})
    assert list(Rows(tmp_path, setting(bench, other, TEMPLATE))) == []
    assert list(Rows(tmp_path, setting(bench, PROTOCOL, Template("{input}")))) == []
    fewer = bench.only([0, 1, 2])
    assert list(Rows(tmp_path, setting(fewer, PROTOCOL, TEMPLATE))) == []
    assert len(list(Rows(tmp_path, setting(bench, PROTOCOL, TEMPLATE)))) == 1


def test_rows_of_a_file_that_has_changed_are_not_used(
    bench: Workbench, tasks: list[BenchTask], tmp_path: Path
) -> None:
    rows = measured(bench, tasks, tmp_path, methods=["zero_shot"])
    (task,) = tasks
    (step, *_) = measure.steps(readable(bench, [task]), PROTOCOL, ["zero_shot"])
    assert step.is_in(rows)
    changed = BenchTask(task.name, "0" * 64, task.pool, task.test)
    (step, *_) = measure.steps(readable(bench, [changed]), PROTOCOL, ["zero_shot"])
    assert not step.is_in(rows)


# --- what a base model cannot read ---------------------------------------------------------------


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    """The tiny model has 64 places, 32 of which are for its answer."""
    base = base_model.load(make_llama(tmp_path / "base"))
    make_adapter(base, tmp_path / "module", 0, target_modules=["q_proj", "v_proj"])
    bench = Workbench.open(tmp_path / "base", tmp_path / "module")
    assert bench.base.max_tokens == 32
    long = " ".join(["big"] * 40)
    examples = some_examples(150)
    for place in range(0, 150, 5):
        examples[place] = Example(f"{long} {place}", "small")
    few = [*some_examples(10), *(Example(f"{long} {place}", "small") for place in range(140))]
    tasks = [
        split.read(write(tmp_path / "tasks" / f"{name}.json", each), test=50, seed=42)
        for name, each in (("some", examples), ("most", few))
    ]
    protocol = Protocol(shots=4, test=50, draws=1)
    (some,), refused = measure.as_read(tasks, bench.base, Template(), protocol)
    assert len(some.too_long) == 30
    assert not some.too_long & set(some.test)
    assert set(some.test) | some.too_long == set(tasks[0].test) | some.too_long
    assert list(refused) == ["most"]
    assert "fit into the 32 tokens" in refused["most"] and "4 + 30 are needed" in refused["most"]
    rows = Rows(tmp_path, setting(bench, protocol, Template()))
    methods = ["zero_shot", "in_context", "uniform", "lorahub"]
    measure.measure(bench, [some], Template(), protocol, methods, rows)
    assert {len(run) for row in rows for run in row.hits} == {len(some.test)}
    (shown,) = (row for row in rows if row.method == "in_context")
    assert shown.detail["shots"] == 4
    results = Results([some], methods, protocol, rows, len(bench), refused)
    assert results.shots(some, "in_context") == 4


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadBenchmark, match="shots is 101; the pool has 100 examples"):
        Protocol(shots=101)
    with pytest.raises(BadBenchmark, match="draws is 0; it must be 1 or more"):
        Protocol(draws=0)
    with pytest.raises(BadBenchmark, match="seed is -1; it must be 0 or more"):
        Protocol(seed=-1)

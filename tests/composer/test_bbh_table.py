"""What the tables say of rows that are known by heart."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from composer.bbh import table
from composer.bbh.methods import Readable
from composer.bbh.protocol import Protocol
from composer.bbh.results import Results
from composer.bbh.rows import Row, Rows
from composer.bbh.split import BenchTask
from tests.composer.bbh_files import some_examples

METHODS = ["zero_shot", "in_context", "lorahub"]
# By task and method, each draw's runs.
HITS = {
    "navigate": {
        "zero_shot": [["1100"]],
        "in_context": [["1100", "1000", "1000"], ["0000", "0000", "1111"]],
        "lorahub": [["1111"], ["1000"]],
    },
    "of our own": {
        "zero_shot": [["11111111"]],
        "in_context": [["00000000"] * 3] * 2,
        "lorahub": [["00000001"], ["00000011"]],
    },
}


def results(folder: Path, too_long: int = 0, refused: Mapping[str, str] | None = None) -> Results:
    rows, tasks = Rows(folder, {}), []
    for name, by_method in HITS.items():
        test = some_examples(len(by_method["zero_shot"][0][0]), first=200)
        left_out = some_examples(too_long, first=300)
        pool = some_examples(100)
        task = BenchTask(name, name, tuple(pool), (*test, *left_out), repeated=too_long)
        tasks.append(Readable(task, tuple(test), frozenset([*left_out, *pool[:too_long]])))
        for method, draws in by_method.items():
            for number, runs in enumerate(draws):
                rows.add(row(name, None if method == "zero_shot" else number, method, runs))
    return Results(tasks, METHODS, Protocol(draws=2, test=8), rows, 196, refused or {})


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results(tmp_path_factory.mktemp("usual"))


def row(task: str, draw: int | None, method: str, runs: Sequence[str]) -> Row:
    detail = {"shots": 2.5} if method == "in_context" and task == "navigate" else {}
    return Row(task, task, draw, method, tuple(runs), 1.5, detail)


def test_the_csv_has_a_line_for_each_task_and_method_and_their_means(usual: Results) -> None:
    lines = list(csv.DictReader(io.StringIO(table.as_csv(usual))))
    assert [(line["task"], line["method"]) for line in lines] == [
        (task, method) for task in (*HITS, "mean of 2") for method in METHODS
    ]
    assert all(None not in line and None not in line.values() for line in lines)
    found = {(line["task"], line["method"]): line for line in lines}
    expected = {
        ("navigate", "zero_shot"): (4, 1, 0.5, 0.5),
        ("navigate", "in_context"): (4, 2, 1 / 3, 1 / 3),
        ("navigate", "lorahub"): (4, 2, 0.625, 1),
        ("of our own", "zero_shot"): (8, 1, 1, 1),
        ("of our own", "lorahub"): (8, 2, 0.1875, 0.25),
        ("mean of 2", "zero_shot"): (12, 1, 0.75, 0.75),
        ("mean of 2", "in_context"): (12, 2, 1 / 6, 1 / 6),
        ("mean of 2", "lorahub"): (12, 2, (0.625 + 0.1875) / 2, 0.625),
    }
    for key, numbers in expected.items():
        said = [float(found[key][name]) for name in ("test", "draws", "mean", "best_draw")]
        assert said == pytest.approx(numbers, abs=1e-6), key
        assert float(found[key]["low"]) <= numbers[2] <= float(found[key]["high"])
    assert found["navigate", "in_context"]["shots_in_prompt"] == "2.5"
    assert found["navigate", "lorahub"]["seconds"] == "3.0"


def test_the_interval_of_a_mean_is_wider_where_the_draws_differ(usual: Results) -> None:
    navigate, own = usual.tasks
    assert usual.cell(own, "zero_shot").low == usual.cell(own, "zero_shot").high == 1
    differing = usual.cell(navigate, "lorahub")
    assert differing.high - differing.low > 0.5


def test_the_markdown_is_a_table_with_the_papers_figures(usual: Results) -> None:
    text = table.as_markdown(usual)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {11}
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == [
        *("task", "test", "zero-shot", "in context", "LoraHub, mean", "LoraHub, best"),
        *("paper: zero-shot", "paper: in context", "paper: LoRA", "paper: LoraHub"),
    ]
    assert cells[2] == ["navigate", "4", "50.0", "33.3", "62.5", "100.0",
                        "47.3", "44.0", "48.0", "46.1"]  # fmt: skip
    assert cells[3] == ["of our own", "8", "100.0", "0.0", "18.8", "25.0", *"––––"]
    assert cells[4][0] == "**mean of 2**"
    assert cells[4][2].startswith("**75.0** (") and cells[4][5] == "62.5"
    assert cells[4][6:] == cells[2][6:]
    assert "2307.13269" in text and "an upper bound, and no result" in text
    assert "The paper's mean is over the 1 tasks that it has." in text


def test_it_says_what_is_not_as_the_protocol_has_it(tmp_path: Path) -> None:
    said = table.notes(results(tmp_path, too_long=3, refused={"long tales": "nothing fits"}))
    assert said[0] == (
        "navigate: too long for the base model and left out: 3 of 100 in the pool, 3 of 7 for the "
        "test."
    )
    assert any(
        line.startswith("navigate: 2.5 of the 5 examples fit into a prompt") for line in said
    )
    assert "of our own: 3 repeated inputs were left out." in said
    assert "long tales: not measured; nothing fits." in said
    assert any(line.startswith("Methods left out: best single, uniform,") for line in said)


def test_nothing_is_said_of_the_paper_where_it_has_no_such_task(usual: Results) -> None:
    own = Results(usual.tasks[1:], METHODS, usual.protocol, usual.rows, 3, {})
    text = table.as_markdown(own)
    assert "paper:" not in text and "FLAN" not in text
    assert "The library has 3 modules: every draw has all of them" in text


def test_it_says_what_an_interval_without_width_is_worth(usual: Results) -> None:
    rows = Rows(usual.rows.path.parent / "nothing", {})
    rows.path.parent.mkdir()
    for number in range(2):
        rows.add(row("of our own", number, "in_context", ["00000000"] * 3))
    (_, own) = usual.tasks
    said = table.notes(Results([own], ["in_context"], usual.protocol, rows, 196, {}))
    assert any("By Wilson's, 0 of 8 leave up to 32.4%." in line for line in said)
    assert not any("Wilson" in line for line in table.notes(usual))


def test_a_prompt_without_examples_is_called_what_it_is(tmp_path: Path) -> None:
    whole = results(tmp_path)
    for number in range(2):
        none = Row("navigate", "navigate", number, "in_context", ("0000",) * 3, 1.0, {"shots": 0.0})
        whole.rows.add(none)
    said = table.notes(whole)
    assert "navigate: no example fits into a prompt; in context is zero-shot there." in said

"""`manage.py evaluate_bbh`, from the files to the tables, without a site or its database."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from composer.demo import library
from composer.engine import base_model
from composer.management.commands import evaluate_bbh
from tests.composer.bbh_files import some_examples, write
from tests.engine.conftest import make_adapter, make_t5

QUICK = ("zero_shot", "uniform", "lorahub")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("command")
    base = base_model.load(make_t5(root / "base"))
    for place in range(3):
        make_adapter(base, root / "modules" / f"m{place}", place)
    write(root / "tasks" / "counting.json", some_examples(120))
    write(root / "tasks" / "sorting.json", some_examples(130, first=50))
    return root


def evaluate(files: Path, out: Path, *more: str) -> None:
    others = ("in_context", "best_single", "uniform_scaled", "fresh_lora", "randomised", "ranked")
    call_command(
        "evaluate_bbh",
        *("--data", str(files / "tasks"), "--base", str(files / "base")),
        *("--library", str(files / "modules"), "--out", str(out)),
        *("--draws", "2", "--random", "2", "--test", "30", "--without", *others, *more),
    )


def test_it_writes_rows_and_both_tables(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(files, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert Counter((row["task"], row["method"]) for row in rows) == {
        (task, method): 1 if method == "zero_shot" else 2
        for task in ("counting", "sorting")
        for method in QUICK
    }
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["task"], line["method"]) for line in lines] == [
        (task, method) for task in ("counting", "sorting", "mean of 2") for method in QUICK
    ]
    text = (tmp_path / "results.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table] == [
        *("task", "---", "counting", "sorting", "**mean of 2**"),
    ]
    assert len({line.count("|") for line in table}) == 1
    assert "Methods left out: in context, best single" in text
    setting = json.loads((tmp_path / "setting.json").read_text())
    assert list(setting["modules"]) == ["m0", "m1", "m2"]
    assert setting["given"] == [str(files / "base"), str(files / "modules")]
    shown = capsys.readouterr()
    assert text in shown.out
    assert "10/10" in shown.err


def test_it_goes_on_and_measures_nothing_twice(files: Path, tmp_path: Path) -> None:
    evaluate(files, tmp_path, "--tasks", "counting")
    before = (tmp_path / "rows.jsonl").read_text()
    evaluate(files, tmp_path)
    whole = (tmp_path / "rows.jsonl").read_text()
    assert whole.startswith(before)
    added = [json.loads(line) for line in whole.removeprefix(before).splitlines()]
    assert {row["task"] for row in added} == {"sorting"}
    tables = [(tmp_path / name).read_text() for name in ("results.csv", "results.md")]
    evaluate(files, tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == whole
    assert [(tmp_path / name).read_text() for name in ("results.csv", "results.md")] == tables


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--without", "luck"], r"No method 'luck'\. There are: zero_shot, in_context"),
        (["--tasks", "lies"], r"There is no lies\.json"),
        (["--data", "/nowhere"], "There is no folder '/nowhere'"),
        (["--base", "/nowhere"], "There is no folder '/nowhere' for the base model"),
        (["--library", "/nowhere"], "There is no folder '/nowhere' for the module"),
        (["--shots", "101"], "shots is 101; the pool has 100 examples"),
        (["--template", "none"], "it must hold it exactly once"),
        (["--device", "none"], "The device 'none' cannot be used here"),
    ],
)
def test_what_cannot_be_is_one_line_for_its_reader(
    files: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    with pytest.raises(CommandError, match=said):
        evaluate(files, tmp_path, *more)
    assert not (tmp_path / "rows.jsonl").exists()


def test_two_at_once_do_not_share_a_folder(files: Path, tmp_path: Path) -> None:
    with (
        evaluate_bbh.alone_in(tmp_path),
        pytest.raises(CommandError, match="Another evaluation writes to"),
    ):
        evaluate(files, tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_broken_file_is_named(files: Path, tmp_path: Path) -> None:
    write(tmp_path / "tasks" / "good.json", some_examples(120))
    (tmp_path / "tasks" / "broken.json").write_text("{")
    with pytest.raises(CommandError, match=r"broken\.json cannot be read as JSON"):
        evaluate(files, tmp_path, "--data", str(tmp_path / "tasks"))
    (tmp_path / "none").mkdir()
    with pytest.raises(CommandError, match=r"no \.json file in .*none"):
        evaluate(files, tmp_path, "--data", str(tmp_path / "none"))


def test_a_plain_word_means_the_demo_library() -> None:
    t5, llama = library.T5, library.LLAMA
    assert evaluate_bbh.base_name("demo") == str(t5.folder())
    assert evaluate_bbh.base_name("wordsmith-llama") == str(llama.folder())
    assert evaluate_bbh.base_name("google/flan-t5-large") == "google/flan-t5-large"
    assert evaluate_bbh.library_names(["demo"], "demo") == [str(t5.modules())]
    assert evaluate_bbh.library_names(["demo"], "wordsmith-llama") == [str(llama.modules())]
    assert evaluate_bbh.library_names(["wordsmith-llama", "lorahub/*"], "demo") == [
        *(str(llama.modules()), "lorahub/*"),
    ]
    assert all(Path(name).is_dir() for name in evaluate_bbh.library_names(["demo"], "demo"))

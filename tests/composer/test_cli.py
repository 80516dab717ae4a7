from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from composer.cli import main as cli
from composer.engine import adapter_file, base_model, recipe, stack
from composer.engine.errors import BadExamples, CommonsError
from composer.workbench import Workbench
from tests.engine import slow
from tests.engine.conftest import EXAMPLES, TEMPLATE, make_adapter, make_t5


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    base = base_model.load(make_t5(root / "base"))
    for i in range(3):
        make_adapter(base, root / "modules" / f"m{i}", i)
    rows = [{"input": e.input, "target": e.target} for e in EXAMPLES]
    (root / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "held_out.jsonl").write_text('{"input": "new", "target": "old"}\n')
    return root


def arguments(files: Path, *more: str) -> list[str]:
    return [
        "--base", str(files / "base"), "--modules", str(files / "modules"),
        "--examples", str(files / "examples.jsonl"), *more,
    ]  # fmt: skip


def compose(files: Path, out: Path, *more: str) -> int:
    given = ["--out", str(out), "--template", TEMPLATE.text, "--budget", "40", "--seed", "1"]
    return cli.main(["compose", *arguments(files, *given, *more)])


def test_it_writes_an_adapter_and_its_recipe(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compose(files, tmp_path, "--held-out", str(files / "held_out.jsonl")) == 0
    shown = capsys.readouterr()
    made = recipe.check(json.loads((tmp_path / "recipe.json").read_text()))
    assert [i["repo"] for i in made.spec["ingredients"]] == ["m0", "m1", "m2"]
    assert made.spec["search"]["budget"] == made.evidence["evaluations"] == 40
    assert made.evidence["composed"]["total"] == made.evidence["zero_shot"]["total"] == 1
    assert made.id[:12] in shown.out and "Held out, composed" in shown.out
    assert "40/40" in shown.err
    assert made.evidence["adapter"]["max_difference"] < 1e-4
    assert made.id in (tmp_path / "README.md").read_text()
    config = adapter_file.read_config(tmp_path)
    assert len(adapter_file.inspect(config, adapter_file.read_header(tmp_path)).layers) == 12
    model = T5ForConditionalGeneration.from_pretrained(files / "base")
    assert PeftModel.from_pretrained(model, tmp_path).peft_config["default"].r == 6


def test_the_same_command_makes_the_same_bytes(files: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert compose(files, tmp_path / name) == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("more", [[], ["--combination", "lorahub"], ["--preset", "paper"]])
def test_it_verifies_a_recipe_by_running_it_again(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert compose(files, tmp_path, *more) == 0
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path / "recipe.json"), *arguments(files)]) == 0
    assert capsys.readouterr().out.startswith("Matched: ")


def test_it_says_when_a_recipe_does_not_match(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compose(files, tmp_path)
    document = json.loads((tmp_path / "recipe.json").read_text())
    del document["id"]
    document["weights"][0] += 0.5
    (tmp_path / "recipe.json").write_text(json.dumps(document))
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path / "recipe.json"), *arguments(files)]) == 3
    assert "Not matched: the weights differ by up to 0.5" in capsys.readouterr().out
    (tmp_path / "other.jsonl").write_text('{"input": "new", "target": "old"}\n')
    given = arguments(files, "--examples", str(tmp_path / "other.jsonl"))
    assert cli.main(["verify", str(tmp_path / "recipe.json"), *given]) == 3
    assert "not the examples_hash" in capsys.readouterr().out


def test_bad_input_is_one_line_for_its_reader(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"input": "big"}\n')
    assert compose(files, tmp_path, "--examples", str(tmp_path / "bad.jsonl")) == 1
    shown = capsys.readouterr()
    assert shown.err == (
        'Error: Line 1 has no text in \'target\'. Write {"input": "big", "target": "small"}.\n'
    )
    assert compose(files, tmp_path, "--modules", str(tmp_path)) == 1
    assert compose(files, tmp_path, "--base", str(tmp_path)) == 1
    assert compose(files, tmp_path, "--template", "nothing") == 1
    assert compose(files, tmp_path, "--budget", "0") == 1
    assert cli.main(["verify", str(tmp_path / "none.json"), *arguments(files)]) == 1
    assert not (tmp_path / "recipe.json").exists()


def test_it_runs_as_a_program(files: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "composer.cli", "compose"]
    given = arguments(files, "--out", str(tmp_path / "out"), "--budget", "10", "--threads", "1")
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "recipe.json").exists()
    assert "Traceback" not in done.stderr


def test_a_reader_may_leave_before_the_end(files: Path) -> None:
    program = [sys.executable, "-m", "composer.cli", "inspect", str(files / "modules")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, text=True, **pipes) as running:
        running.stdout.close()
        assert running.stderr.read() == ""


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("place", ["taken", "taken/inside", "/proc/none"])
def test_it_says_before_the_search_that_it_cannot_write(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert compose(files, tmp_path / place) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Error: Nothing can be written to ") and shown.count("\n") == 1


@pytest.mark.parametrize("device", ["nope", "cuda:99"])
def test_it_names_a_device_that_is_not_there(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    assert compose(files, tmp_path, "--device", device) == 1
    assert one_line(capsys).startswith(f"Error: The device {device!r} cannot be used here.")


def test_it_takes_a_module_once(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = [str(files / "modules"), str(files / "modules" / "m1")]
    assert compose(files, tmp_path, "--modules", *twice) == 1
    assert one_line(capsys).endswith("m1 is given twice. Name it once.")


def test_it_tells_modules_of_one_name_apart(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(files / "modules" / "m1", tmp_path / "others" / "m0")
    both = [str(files / "modules" / "m0"), str(tmp_path / "others" / "m0")]
    held_out = ["--held-out", str(files / "held_out.jsonl"), "--json"]
    base = ["--base", str(files / "base")]
    assert cli.main(["evaluate", *base, "--adapter", *both, *held_out]) == 0
    assert {"modules/m0", "others/m0"} <= shown_json(capsys)["scores"].keys()
    given = ["--examples", str(files / "examples.jsonl"), "--budget", "5", "--json"]
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["compose", *base, "--modules", *both, *given, *out]) == 0
    assert shown_json(capsys)["weights"].keys() == {"modules/m0", "others/m0"}


@pytest.mark.parametrize("name", ["--top", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_it_refuses_numbers_that_mean_nothing(
    files: Path, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["rank", *arguments(files, f"{name}={value}")])
    assert ended.value.code == 2
    assert f"argument {name}: '{value}' is not a whole number from 1 on" in capsys.readouterr().err


def test_it_reads_examples_that_an_editor_marked(files: Path, tmp_path: Path) -> None:
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + (files / "examples.jsonl").read_bytes())
    assert compose(files, tmp_path / "out", "--examples", str(marked), "--budget", "1") == 0


def test_it_refuses_a_result_that_is_none(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base model whose answers are all NaN: no weights are better than others."""
    shutil.copytree(files / "base", tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["encoder.final_layer_norm.weight"] *= float("nan")
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    assert compose(files, tmp_path / "out", "--base", str(tmp_path / "base")) == 1
    assert one_line(capsys).startswith("Error: Every candidate's loss was infinite")
    assert not list((tmp_path / "out").iterdir())


def test_it_verifies_a_recipe_of_a_site(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other names, an order of its own, no hash of the base model, salted examples."""
    reordered = [str(files / "modules" / name) for name in ("m2", "m0", "m1")]
    assert compose(files, tmp_path, "--modules", *reordered) == 0
    made = recipe.check(json.loads((tmp_path / "recipe.json").read_text()))
    spec = {
        **made.spec,
        "base_model": {"repo": "demo/base", "revision": "1" * 40},
        "ingredients": [
            {**each, "repo": f"demo/{each['repo']}", "revision": "2" * 40}
            for each in made.spec["ingredients"]
        ],
        "examples_hash": recipe.examples_hash(EXAMPLES, "salt"),
    }
    site = recipe.build(spec, made.weights)
    (tmp_path / "site.json").write_text(json.dumps(site.to_json()))
    capsys.readouterr()
    assert cli.main(["verify", str(tmp_path / "site.json"), *arguments(files)]) == 0
    assert capsys.readouterr().out == f"Matched: {site.id}\n"
    (tmp_path / "other.jsonl").write_text('{"input": "new", "target": "old"}\n')
    others = arguments(files, "--examples", str(tmp_path / "other.jsonl"))
    assert cli.main(["verify", str(tmp_path / "site.json"), *others]) == 3


def test_a_stopped_run_leaves_what_was_there(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compose(files, tmp_path) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def stopped(*given: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", stopped)  # weights are written, nothing after
    assert compose(files, tmp_path, "--seed", "2") == 130
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- the other commands ------------------------------------------------------------------------


def shown_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def test_it_ranks_modules_by_what_they_do_alone(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(files, "--template", TEMPLATE.text)
    assert cli.main(["rank", *given, "--json"]) == 0
    rows = shown_json(capsys)["modules"]
    assert sorted(row["module"] for row in rows) == ["m0", "m1", "m2"]
    assert [row["loss"] for row in rows] == sorted(row["loss"] for row in rows)
    base = base_model.load(files / "base")
    modules = stack.load([files / "modules" / row["module"] for row in rows], base)
    with slow.merged(base, [1.0, 0.0, 0.0], modules, "sum"):
        alone = slow.answer_losses(base, EXAMPLES, TEMPLATE)
    assert rows[0]["by_example"] == pytest.approx([sum(r) / len(r) for r in alone], abs=1e-5)
    assert cli.main(["rank", *given, "--top", "1"]) == 0
    table = capsys.readouterr()
    assert table.out.split() == ["loss", "module", f"{rows[0]['loss']:.4f}", rows[0]["module"]]
    assert "3/3" in table.err


def test_it_inspects_adapters_without_a_base_model(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(files / "modules" / "m0", tmp_path / "dora")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    assert cli.main(["inspect", str(files / "modules" / "m1"), "--json"]) == 0
    (row,) = shown_json(capsys)["modules"]
    assert row["ranks"] == [2] and row["scalings"] == [2.0] and row["reason"] == ""
    assert row["layers"] == {"q": 6, "v": 6}
    assert cli.main(["inspect", str(folder), str(files / "modules" / "m1")]) == 1
    shown = capsys.readouterr().out
    assert "no. It cannot be composed exactly: it uses DoRA" in shown
    assert "can be mixed exactly: yes" in shown


def test_it_cuts_the_rank_down_and_says_what_that_cost(files: Path, tmp_path: Path) -> None:
    assert compose(files, tmp_path, "--rank", "2", "--blocks", "sides", "--top", "2") == 0
    made = recipe.check(json.loads((tmp_path / "recipe.json").read_text()))
    assert made.spec["rank"] == "truncated to 2 by SVD" and len(made.weights) == 4
    assert len(made.spec["ingredients"]) == 2
    adapter = made.evidence["adapter"]
    assert adapter["r"] == 2 and adapter["exact_rank"] == 4 and 0 < adapter["largest_error"] < 1
    assert adapter_file.read_config(tmp_path).r == 2
    assert recipe.inside(tmp_path / "adapter_model.safetensors").id == made.id


@pytest.mark.parametrize("source", ["recipe.json", "", "adapter_model.safetensors"])
def test_it_builds_a_recipes_adapter_again(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    assert compose(files, tmp_path / "one") == 0
    again = ["apply", str(tmp_path / "one" / source), "--out", str(tmp_path / "two")]
    places = ["--base", str(files / "base"), "--modules", str(files / "modules")]
    assert cli.main([*again, *places]) == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    capsys.readouterr()
    fewer = [*again, *places[:3], str(files / "modules" / "m1")]
    assert cli.main(fewer) == 3
    assert "not the ingredients" in capsys.readouterr().out


def test_it_knows_modules_of_equal_weights_by_their_names(files: Path, tmp_path: Path) -> None:
    """m0 once more, with another alpha: a config is no part of the weights' hash."""
    shutil.copytree(files / "modules", tmp_path / "modules")
    shutil.copytree(files / "modules" / "m0", tmp_path / "modules" / "m9")
    config = tmp_path / "modules" / "m9" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 4', '"lora_alpha": 400'))
    assert compose(files, tmp_path / "found") == 0
    given = ["--base", str(files / "base"), "--modules", str(tmp_path / "modules")]
    recipe, out = str(tmp_path / "found" / "recipe.json"), str(tmp_path / "again")
    assert cli.main(["apply", recipe, *given, "--out", out]) == 0
    name = "adapter_model.safetensors"
    assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_it_scores_adapters_beside_the_base_model(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compose(files, tmp_path / "made", "--held-out", str(files / "held_out.jsonl")) == 0
    composed = json.loads((tmp_path / "made" / "recipe.json").read_text())["evidence"]["composed"]
    capsys.readouterr()
    given = ["--base", str(files / "base"), "--held-out", str(files / "held_out.jsonl")]
    adapters = ["--adapter", str(tmp_path / "made"), str(files / "modules" / "m0")]
    assert cli.main(["evaluate", *given, *adapters, "--template", TEMPLATE.text, "--json"]) == 0
    scores = shown_json(capsys)["scores"]
    assert list(scores) == ["the base model alone", "made", "m0"]
    assert scores["made"] == composed


def test_programs_get_json(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compose(files, tmp_path, "--json") == 0
    found = shown_json(capsys)
    assert found["recipe"] == json.loads((tmp_path / "recipe.json").read_text())["id"]
    assert list(found["weights"]) == sorted(
        found["weights"], key=lambda name: -abs(found["weights"][name])
    )
    given = arguments(files, "--json")
    assert cli.main(["verify", str(tmp_path / "recipe.json"), *given]) == 0
    assert shown_json(capsys) == {"matched": True, "recipe": found["recipe"]}


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("inspect", "rank", "compose", "evaluate", "apply", "verify"):
        with pytest.raises(SystemExit) as ended:
            cli.main([command, "--help"])
        assert ended.value.code == 0
        assert f"python -m composer.cli {command} " in capsys.readouterr().out


def test_a_notebook_needs_five_lines(files: Path, tmp_path: Path) -> None:
    bench = Workbench.open(files / "base", files / "modules")
    found = bench.compose([(e.input, e.target) for e in EXAMPLES], template=TEMPLATE.text,
                          budget=40, seed=1)  # fmt: skip
    answers = found.answer(["new", "hot"])
    found.save(tmp_path / "notebook")
    assert compose(files, tmp_path / "program") == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        same = [(tmp_path / way / name).read_bytes() for way in ("notebook", "program")]
        assert same[0] == same[1]
    score = found.score([("new", answers[0]), ("hot", answers[1] + "!")])
    assert (score.correct, score.total) == (1, 2)
    assert "m0" in found._repr_html_() and list(found.weights) != []
    best = bench.best(EXAMPLES, 2, template=TEMPLATE.text)
    assert len(best) == 2 and len(bench) == 3


def test_a_notebook_is_told_what_is_no_example(files: Path, tmp_path: Path) -> None:
    bench = Workbench.open(files / "base", [files / "modules"])
    for given, words in (
        ([], "There are 0 examples"),
        ([("big", "small"), "up"], "Example 2 is 'up'"),
        ([("big", "small", "tiny")], "Example 1 is"),
        ([("big", None)], "Example 1 is"),
        ([{"input": "big"}], "Example 1 is"),
        ([("big", "small"), ("big", "cold")], "repeats line 1"),
    ):
        for use in (bench.compose, bench.rank):
            with pytest.raises(BadExamples, match=words):
                use(given)
    rows = [{"input": each.input, "target": each.target} for each in EXAMPLES]
    assert bench.rank(rows).losses.tolist() == bench.rank(EXAMPLES).losses.tolist()
    with pytest.raises(CommonsError, match="How many is -1"):
        bench.best(EXAMPLES, -1)
    with pytest.raises(CommonsError, match="Nothing can be written"):
        bench.compose(EXAMPLES, budget=1).save(files / "examples.jsonl")

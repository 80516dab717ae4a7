"""The command line with names of the Hub instead of folders, against this site."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from composer.models import FewShotTask
from modules.models import BaseModel, LoraModule, Repo
from tests.composer.conftest import SHOTS
from tests.modules.hub_api.conftest import client_environment

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(live_server: Any, tmp_path: Path) -> Any:
    """A program of its own, because the client reads its environment once."""
    examples = "\n".join(json.dumps({"input": e.input, "target": e.target}) for e in SHOTS)
    (tmp_path / "examples.jsonl").write_text(examples)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "composer.cli", *arguments],
            env=client_environment(live_server.url, tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_it_composes_from_repos_and_names_their_versions(
    run: Any, tmp_path: Path, base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    owner = str(lora_modules[0].repo).partition("/")[0]
    examples, out = str(tmp_path / "examples.jsonl"), str(tmp_path / "out")
    given = ["--base", base_model.name, "--modules", f"{owner}/*", "--examples", examples]
    done = run("compose", *given, "--out", out, "--budget", "20", "--threads", "1", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "out" / "recipe.json").read_text())
    assert [(each["repo"], each["revision"]) for each in made["spec"]["ingredients"]] == [
        (str(module.repo), module.commit.sha) for module in lora_modules
    ]
    assert made["spec"]["base_model"]["repo"] == base_model.name
    assert "Left out" not in done.stderr and "Warning" not in done.stderr
    assert json.loads(done.stdout)["recipe"] == made["id"]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base_model.name
    again = run("verify", f"{out}/recipe.json", *given, "--threads", "1")
    assert again.stdout == f"Matched: {made['id']}\n", again.stderr


def test_it_leaves_out_what_was_made_for_another_base(
    run: Any, tmp_path: Path, base_model: BaseModel, lora_modules: list[LoraModule]
) -> None:
    """Only the config is fetched of those, without a word for each."""
    owner = str(lora_modules[0].repo).partition("/")[0]
    other = tmp_path / "another-base"
    other.mkdir()
    (other / "config.json").write_text("{}")
    given = ["--base", str(other), "--modules", f"{owner}/*"]
    done = run("rank", *given, "--examples", str(tmp_path / "examples.jsonl"))
    assert done.returncode == 1
    line = f"Left out: {len(lora_modules)} of {owner}'s adapters, made for {base_model.name}."
    assert done.stderr.splitlines()[0] == line
    assert done.stderr.splitlines()[-1].startswith(
        f"Error: None of the {len(lora_modules)} adapters"
    )


def test_it_says_what_is_not_there_or_not_for_strangers(
    run: Any, base_model: BaseModel, lora_modules: list[LoraModule], task: FewShotTask
) -> None:
    hidden = lora_modules[0].repo
    Repo.objects.filter(pk=hidden.pk).update(visibility="private")
    for name in (str(hidden), "nobody/nothing"):
        done = run("inspect", name)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: There is no folder {name!r} here, and no such repo")
    assert run("inspect", "no such folder").returncode == 1
    assert "no such revision" in run("inspect", f"{lora_modules[1].repo}@{'0' * 40}").stderr
    assert run("inspect", str(lora_modules[1].repo)).returncode == 0


def test_it_inspects_all_of_an_author(run: Any, lora_modules: list[LoraModule]) -> None:
    owner = str(lora_modules[0].repo).partition("/")[0]
    done = run("inspect", f"{owner}/*", "--json")
    assert done.returncode == 0, done.stderr
    named = [each["module"] for each in json.loads(done.stdout)["modules"]]
    assert named == [str(module.repo) for module in lora_modules]


NOWHERE = "http://127.0.0.1:9"  # nothing listens there


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [
        ("someone/thing", NOWHERE),
        ("someone/*", "no address"),
        ("a--b/thing", NOWHERE),
        ("someone/thing.git", NOWHERE),
    ],
)
def test_a_hub_that_is_not_there_is_one_line(tmp_path: Path, name: str, endpoint: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "composer.cli", "inspect", name],
        env=client_environment(endpoint, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr

"""The shipped demo library is whole, small, pinned, and what the script would make."""

from __future__ import annotations

import json

import pytest

from composer.demo import library, skills, tasks
from composer.engine import adapter_file

LARGEST = 15_000_000


def test_it_ships_one_module_for_each_relation() -> None:
    names = [folder.name for folder in library.module_folders()]
    assert names == sorted(library.repo_name(name) for name in skills.MODULES)


def test_it_stays_small() -> None:
    total = sum(path.stat().st_size for path in library.FOLDER.rglob("*") if path.is_file())
    assert total <= LARGEST


def test_it_pins_the_shipped_base_model() -> None:
    revision = library.content_revision(library.base_folder())
    for folder in library.module_folders():
        config = adapter_file.read_config(folder / "adapter_config.json")
        assert (config.base_model, config.revision) == (library.BASE_REPO, revision)


def test_it_passes_the_engines_checks() -> None:
    for folder in library.module_folders():
        config = adapter_file.read_config(folder / "adapter_config.json")
        header = adapter_file.read_header(folder / "adapter_model.safetensors")
        facts = adapter_file.inspect(config, header)
        assert (facts.r, facts.lora_alpha) == (8, 16)


def test_it_ships_the_tasks_that_the_script_makes() -> None:
    shipped = json.loads((library.FOLDER / "tasks.json").read_text(encoding="utf-8"))
    assert shipped == tasks.documents()


def test_it_reads_tasks_with_the_modules_they_need() -> None:
    names = {folder.name for folder in library.module_folders()}
    for task in library.tasks():
        assert set(task.modules) <= names
        assert len(task.modules) >= {"mixture": 2, "phrase": 2, "single": 1}.get(task.kind, 0)
        assert not {example.input for example in task.pool} & {
            example.input for example in task.test
        }


def test_it_gives_every_file_a_card_with_front_matter() -> None:
    for folder in (library.base_folder(), *library.module_folders()):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\nlicense: apache-2.0\n")
        assert ("library_name: peft" in card) == (folder.parent.name == "modules")


@pytest.mark.slow
def test_it_answers_held_out_words_with_a_module_and_not_without() -> None:
    import numpy as np

    from composer.engine import base_model, evaluate, stack
    from composer.engine.prompt import Template

    base = base_model.load(library.base_folder())
    modules = stack.load(library.module_folders(), base)
    (task,) = (task for task in library.tasks() if task.key == "comparative")
    inputs = [example.input for example in task.test]
    targets = [example.target for example in task.test]
    weights = np.array([float(name in task.modules) for name in modules.names])
    template = Template(task.template)
    alone = evaluate.score(evaluate.predict(base, None, None, inputs, template), targets)
    helped = evaluate.score(evaluate.predict(base, modules, weights, inputs, template), targets)
    assert helped.value > 0.8 > alone.value

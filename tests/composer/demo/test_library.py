"""The shipped demo library is whole, small, pinned, and what the script would make."""

from __future__ import annotations

import json

import pytest

from composer.demo import cards, library, skills, tasks
from composer.demo.library import LLAMA, T5, DemoBase
from composer.engine import adapter_file

LARGEST = 26_000_000

each_base = pytest.mark.parametrize("of", library.BASES.values(), ids=library.BASES)


def test_it_ships_every_base_model() -> None:
    assert library.bases_in() == [T5, LLAMA]


@each_base
def test_it_ships_one_module_for_each_relation(of: DemoBase) -> None:
    names = [folder.name for folder in of.module_folders()]
    assert names == sorted(of.repo_name(name) for name in skills.MODULES)


def test_it_gives_every_repo_a_name_of_its_own() -> None:
    names = [folder.name for of in library.BASES.values() for folder in of.module_folders()]
    names += [of.name for of in library.BASES.values()]
    assert len(set(names)) == len(names)


def test_it_stays_small() -> None:
    total = sum(path.stat().st_size for path in library.FOLDER.rglob("*") if path.is_file())
    assert total <= LARGEST


def test_its_base_models_are_of_one_size() -> None:
    sizes = [(of.folder() / "model.safetensors").stat().st_size for of in library.BASES.values()]
    assert max(sizes) <= 9_000_000
    assert max(sizes) / min(sizes) < 1.05


@each_base
def test_it_pins_the_shipped_base_model(of: DemoBase) -> None:
    revision = library.content_revision(of.folder())
    for folder in of.module_folders():
        config = adapter_file.read_config(folder / "adapter_config.json")
        assert (config.base_model, config.revision) == (of.repo, revision)


@each_base
def test_it_passes_the_engines_checks(of: DemoBase) -> None:
    for folder in of.module_folders():
        config = adapter_file.read_config(folder / "adapter_config.json")
        header = adapter_file.read_header(folder / "adapter_model.safetensors")
        facts = adapter_file.inspect(config, header)
        assert (facts.r, facts.lora_alpha) == (8, 16)


def test_it_ships_the_tasks_that_the_script_makes() -> None:
    shipped = json.loads((library.FOLDER / "tasks.json").read_text(encoding="utf-8"))
    assert shipped == tasks.documents()


@each_base
def test_it_reads_tasks_with_the_modules_they_need(of: DemoBase) -> None:
    names = {folder.name for folder in of.module_folders()}
    for task in library.tasks(base=of):
        assert set(task.modules) <= names
        assert len(task.modules) >= {"mixture": 2, "phrase": 2, "single": 1}.get(task.kind, 0)
        assert not {example.input for example in task.pool} & {
            example.input for example in task.test
        }


def test_it_offers_every_task_once_and_some_of_each_kind_on_the_second_base() -> None:
    offered = [
        of.task_key(task.key) for of in library.BASES.values() for task in library.tasks_for(of)
    ]
    assert len(set(offered)) == len(offered)
    assert [task.key for task in library.tasks_for(T5)] == [spec.key for spec in tasks.SPECS]
    assert {task.kind for task in library.tasks_for(LLAMA)} == {"mixture", "phrase", "single"}


@each_base
def test_it_ships_the_cards_that_the_script_writes(of: DemoBase) -> None:
    card = (of.folder() / "README.md").read_text(encoding="utf-8")
    assert card == cards.base_card(library.FOLDER, of)
    for name in skills.MODULES:
        card = (of.modules() / of.repo_name(name) / "README.md").read_text(encoding="utf-8")
        assert card == cards.module_card(name, of)


@each_base
def test_it_gives_every_file_a_card_with_front_matter(of: DemoBase) -> None:
    for folder in (of.folder(), *of.module_folders()):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\nlicense: apache-2.0\n")
        assert ("library_name: peft" in card) == (folder.parent.name == "modules")


@pytest.mark.slow
@each_base
def test_it_answers_held_out_words_with_a_module_and_not_without(of: DemoBase) -> None:
    import numpy as np

    from composer.engine import base_model, evaluate, stack
    from composer.engine.prompt import Template

    base = base_model.load(of.folder())
    modules = stack.load(of.module_folders(), base)
    (task,) = (task for task in library.tasks(base=of) if task.key == "comparative")
    inputs = [example.input for example in task.test]
    targets = [example.target for example in task.test]
    weights = np.array([float(name in task.modules) for name in modules.names])
    template = Template(task.template)
    alone = evaluate.score(evaluate.predict(base, None, None, inputs, template), targets)
    helped = evaluate.score(evaluate.predict(base, modules, weights, inputs, template), targets)
    assert helped.value > 0.8 > alone.value

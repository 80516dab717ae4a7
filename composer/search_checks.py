"""What a search's settings ask of its task and modules, said where it is submitted: the engine says
it too, but only once a worker has loaded everything."""

from collections.abc import Sequence

from composer.engine.blocks import block_of
from composer.engine.blocks import count as block_count
from composer.engine.config import SearchConfig
from composer.engine.errors import BadConfig
from composer.engine.examples import Example
from composer.engine.selection import check_budget
from composer.models import FewShotTask
from modules.models import BaseModel, LoraModule

MOST_TEST_FOLDS = 10


def check_settings(
    config: SearchConfig,
    task: FewShotTask,
    shots: Sequence[Example],
    modules: Sequence[LoraModule],
    mixed: int,
) -> None:
    """Raise BadConfig, naming the setting, for a search that no worker could begin.

    mixed: how many of the modules are mixed in the end; ranking may leave some out.
    """
    if config.objective == "options" and len(task.answer_options) < 2:
        raise _bad(
            "objective",
            "The objective 'options' needs answer options to choose from, and the task has none. "
            "Add them to the task, or choose another objective.",
        )
    if config.selection != "examples" and len(shots) < 2:
        raise _bad(
            "selection",
            f"The selection {config.selection!r} keeps examples back and needs at least two; the "
            f"task has {len(shots)}. Add examples, or choose the selection 'examples'.",
        )
    check_budget(config, mixed * block_count(config.blocks), mixed, len(shots))
    if layers := _adapted(task.base_model, modules):
        block_of(layers, config.blocks)


def check_test_folds(
    folds: int,
    config: SearchConfig,
    shots: Sequence[Example],
    held_out: Sequence[Example],
    mixed: int,
) -> None:
    """Raise BadConfig for folds that could not be measured. 0 is none."""
    if folds == 0:
        return
    if held_out:
        raise _bad(
            "test_folds",
            "The task has held-out examples, so it is measured on those. Leave the folds out.",
        )
    if not MOST_TEST_FOLDS >= folds >= 2:
        raise _bad(
            "test_folds", f"The folds are {folds}; they must be from 2 to {MOST_TEST_FOLDS}."
        )
    fewest = 2 if config.selection == "examples" else 3
    if len(shots) - -(-len(shots) // folds) < fewest:
        raise _bad(
            "test_folds",
            f"{len(shots)} examples in {folds} folds leave too few to search with. Add examples, "
            "or give held-out ones.",
        )
    left = len(shots) - -(-len(shots) // folds)
    check_budget(config, mixed * block_count(config.blocks), mixed, left)


def _adapted(base_model: BaseModel, modules: Sequence[LoraModule]) -> list[str]:
    """The base model's layers that modules with these target_modules may adapt; empty where its
    layers are not known. A worker sees which of them they do."""
    targets = {name for module in modules for name in module.target_modules}
    return [layer for layer in base_model.layers if layer.rpartition(".")[2] in targets]


def _bad(name: str, message: str) -> BadConfig:
    return BadConfig(message, fields={name: [message]})

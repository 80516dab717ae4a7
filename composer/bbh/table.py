"""What was measured as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import numpy as np

from composer.bbh import paper
from composer.bbh.methods import METHODS
from composer.bbh.results import Cell, Results, left_out
from composer.engine.compare import wilson

CSV_COLUMNS = (
    *("task", "method", "test", "draws", "mean", "low", "high", "best_draw"),
    *("seconds", "shots_in_prompt", "pool_left_out", "test_left_out"),
)
BEST = "lorahub"  # the method whose best draw has a column of its own, as in the paper


def as_csv(results: Results) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for task in results.tasks:
        for method in results.methods:
            rows = results.found(task, method)
            shots = results.shots(task, method)
            pool, test = left_out(task)
            writer.writerow(
                [
                    *(task.name, method, len(task.test), len(rows)),
                    *_numbers(results.cell(task, method)),
                    round(sum(row.seconds for row in rows), 3),
                    *("" if shots is None else round(shots, 2), pool, test),
                ]
            )
    for method in results.methods:
        tests = sum(len(task.test) for task in results.tasks)
        draws = len(results.found(results.tasks[0], method))
        numbers = _numbers(results.mean(method))
        writer.writerow(
            [f"mean of {len(results.tasks)}", method, tests, draws, *numbers, *[""] * 4]
        )
    return out.getvalue()


def _numbers(cell: Cell) -> list[float]:
    return [round(each, 6) for each in (cell.mean, cell.low, cell.high, cell.best)]


# --- Markdown ------------------------------------------------------------------------------------


def as_markdown(results: Results) -> str:
    """The table and what must be said of it; its surroundings say what base and library it is."""
    said = "\n".join(f"- {note}" for note in notes(results))
    parts = [_legend(results), "\n".join(_lines(results)), said]
    return "\n\n".join(part for part in parts if part) + "\n"


def _published(results: Results) -> list[str]:
    """Tasks that the paper has figures of."""
    return [task.name for task in results.tasks if task.name in paper.FIGURES]


def _legend(results: Results) -> str:
    rules = results.protocol
    theirs = f"""
- *paper*: FLAN-T5-large as reported in {paper.PAPER}, on its authors' own split and prompts."""
    return f"""\
Exact match in per cent, mean of {rules.draws} draws; the last line with 95% intervals over
draws and test examples. Our own split of each file (shuffled with seed {rules.seed}): 100
examples are the pool, the next {rules.test} or what is left are the test. A draw takes
{rules.shots} examples of the pool and {rules.modules} random modules, or all where there are no
more. An answer is right when it is the target but for case, outer spaces and one final full stop.

- *zero-shot*: the base model alone. *in context*: the examples in the prompt, mean of
  {rules.orders} orders. *fresh LoRA*: a new one trained on the examples.
- *best single*: of the whole library, by its loss on the examples, its scale tuned. *uniform*: the
  mean of the draw's modules, plain and with one scale tuned.
- *LoraHub*: the preset "as in the paper" on the draw's modules. Its *best* draw is chosen on the
  test: an upper bound, and no result. *randomised*: the same search over the same modules turned in
  random directions.
- *ranked*: the recommended search over the {rules.ranked} modules of the library that do best
  alone on the examples.{theirs if _published(results) else ""}"""


def _lines(results: Results) -> list[str]:
    known = _published(results)
    published = [f"paper: {name}" for name in paper.COLUMNS] if known else []
    names = ["task", "test", *_titles(results.methods), *published]
    lines = [_line(names), "|---|" + "---:|" * (len(names) - 1)]
    for task in results.tasks:
        cells = [results.cell(task, method) for method in results.methods]
        figures = paper.FIGURES.get(task.name)
        theirs = [f"{each:.1f}" for each in figures] if figures else ["–"] * len(published)
        ours = _texts(results.methods, cells, lambda cell: _percent(cell.mean))
        lines.append(_line([task.name, str(len(task.test)), *ours, *theirs]))
    total = [results.mean(method) for method in results.methods]
    ours = _texts(results.methods, total, _with_interval)
    means = np.mean([paper.FIGURES[name] for name in known], axis=0) if known else []
    lines.append(
        _line([f"**mean of {len(results.tasks)}**", "", *ours, *(f"{each:.1f}" for each in means)])
    )
    return lines


def _titles(methods: Sequence[str]) -> list[str]:
    titles = []
    for method in methods:
        name = METHODS[method].name
        titles += [f"{name}, mean", f"{name}, best"] if method == BEST else [name]
    return titles


def _texts(methods: Sequence[str], cells: Sequence[Cell], text: Callable[[Cell], str]) -> list[str]:
    found = []
    for method, cell in zip(methods, cells, strict=True):
        found += [text(cell), _percent(cell.best)] if method == BEST else [text(cell)]
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _with_interval(cell: Cell) -> str:
    return f"**{_percent(cell.mean)}** ({_percent(cell.low)}–{_percent(cell.high)})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def notes(results: Results) -> list[str]:
    """What is not as the protocol has it, by name and number."""
    said, rules = [], results.protocol
    if results.library <= min(rules.modules, rules.ranked):
        said.append(
            f"The library has {results.library} modules: every draw has all of them, and so has "
            "the ranked search."
        )
    for task in results.tasks:
        pool, test = left_out(task)
        if pool or test:
            said.append(
                f"{task.name}: too long for the base model and left out: {pool} of "
                f"{len(task.task.pool)} in the pool, {test} of {len(task.task.test)} for the test."
            )
        shots = results.shots(task, "in_context") if "in_context" in results.methods else None
        if shots == 0:
            said.append(
                f"{task.name}: no example fits into a prompt; in context is zero-shot there."
            )
        elif shots is not None and shots < rules.shots:
            said.append(
                f"{task.name}: {shots:.1f} of the {rules.shots} examples fit into a "
                "prompt on average; a prompt has the first that fit."
            )
        if task.task.repeated:
            said.append(f"{task.name}: {task.task.repeated} repeated inputs were left out.")
    said += [f"{name}: not measured; {why}." for name, why in results.refused.items()]
    left = [each.name for key, each in METHODS.items() if key not in results.methods]
    if left:
        said.append(f"Methods left out: {', '.join(left)}.")
    if any(results.mean(method).high == 0 for method in results.methods):
        tests = sum(len(task.test) for task in results.tasks)
        said.append(
            "Where every answer is wrong, the draws have nothing to differ in and their interval "
            f"has no width. By Wilson's, 0 of {tests:,} leave up to "
            f"{_percent(wilson(0, tests).high)}%."
        )
    known = _published(results)
    if 0 < len(known) < len(results.tasks):
        said.append(f"The paper's mean is over the {len(known)} tasks that it has.")
    averaged = [name for name in known if name.startswith(paper.AVERAGED)]
    if averaged:
        said.append(
            f"{', '.join(averaged)}: the paper's figure is the average of the tasks with three, "
            "five and seven objects."
        )
    return said

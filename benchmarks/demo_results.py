"""How well composing does on the demo's unseen tasks, beside everything simpler.

    python -m benchmarks.demo_results [--base t5|llama|all] [--draws 10] [--test 240]
                                      [--tasks KEY …] [--table-only]

Each draw takes five examples from a task's pool; every method sees the same five. Scores are exact
matches on the task's test inputs, mean and standard deviation over the draws. Rows are kept in
var/demo-results.jsonl, so an interrupted run goes on where it stopped. The table goes into
docs/benchmarks.md and onto the card of its base model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.few_shot import FewShot, bench
from composer.demo import cards, library
from composer.demo.library import DemoBase, DemoTask
from composer.engine import contenders
from composer.engine.config import as_in_the_paper, recommended, with_combination
from composer.engine.contenders import Contender
from composer.engine.fresh_lora import fresh_lora

SHOTS = 5
ROOT = Path(__file__).parent.parent
RAW = ROOT / "var" / "demo-results.jsonl"
DOCS = ROOT / "docs" / "benchmarks.md"
# One block a base model.
START, END = "<!-- demo results, {}: start -->", "<!-- demo results, {}: end -->"

SETTINGS = [recommended().to_json(), as_in_the_paper().to_json()]

# The order of the columns. The first two do not depend on the draw.
METHODS = {
    "zero": "zero-shot",
    "uniform": "uniform",
    "icl": "in context",
    "single": "best single",
    "control": "control",
    "fresh": "fresh LoRA",
    "lorahub": "`lorahub`",
    "sum": "`sum`",
    "cmaes": "`sum`, CMA-ES",
    "paper": "paper",
    "oracle": "needed at 1",
}


def worth(few: FewShot, found: Contender) -> float:
    return few.exact(found.stack, found.weights, found.combination)


def fixed(few: FewShot) -> dict[str, float | None]:
    """What does not depend on the draw. Nobody who composes knows which modules are needed."""
    needed = np.array([float(name in few.task.modules) for name in few.modules.names])
    return {
        "zero": few.exact(None, None),
        "uniform": worth(few, contenders.uniform(few.modules)),
        "oracle": few.exact(few.modules, needed) if needed.any() else None,
    }


def drawn(few: FewShot, draw: int) -> dict[str, float]:
    ours = recommended(seed=draw)
    objective = few.objective(draw, ours, few.modules)
    control = contenders.randomised_stack(few.modules, draw)
    searches = {
        "control": (control, ours),
        "lorahub": (few.modules, with_combination(ours, "lorahub")),
        "sum": (few.modules, ours),
        "cmaes": (few.modules, replace(ours, optimiser="cmaes")),
        "paper": (few.modules, as_in_the_paper(seed=draw)),
    }
    fresh = fresh_lora(few.base, few.examples(draw), few.template, seed=draw)
    return {
        "icl": few.in_context(draw),
        "single": worth(few, contenders.best_single(objective)),
        "fresh": worth(few, fresh),
        **{
            name: few.exact(modules, few.searched(draw, config, modules), config.combination)
            for name, (modules, config) in searches.items()
        },
    }


def kept(path: Path, of: DemoBase) -> dict[tuple[str, int | None], dict[str, object]]:
    """Rows measured before on the same base model with the same presets: {(task, draw): row}."""
    if not path.exists():
        return {}
    revision = library.content_revision(of.folder())
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        (row["task"], row["draw"]): row
        for row in rows
        if (row["revision"], row.get("settings")) == (revision, SETTINGS)
    }


def measure(of: DemoBase, tasks: Sequence[DemoTask], draws: int, test: int) -> None:
    revision = library.content_revision(of.folder())
    RAW.parent.mkdir(exist_ok=True)
    jobs = [(task, draw) for draw in (None, *range(draws)) for task in tasks]
    for task, draw in tqdm(jobs, unit="draw", mininterval=5):
        few = bench(of.family, task.key, SHOTS, test)
        known = kept(RAW, of).get((task.key, draw))
        if known and known["test"] == len(few.test):
            continue
        start = time.perf_counter()
        scores = fixed(few) if draw is None else drawn(few, draw)
        row = {
            "revision": revision,
            "settings": SETTINGS,
            "task": task.key,
            "draw": draw,
            "test": len(few.test),
            "seconds": round(time.perf_counter() - start, 2),
            **scores,
        }
        with RAW.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def values(rows: Iterable[dict[str, object]], method: str) -> list[float]:
    return [float(str(row[method])) for row in rows if row.get(method) is not None]


def cell(found: list[float]) -> str:
    if not found:
        return "–"
    mean = f"{100 * statistics.fmean(found):.0f}"
    return f"{mean} ± {100 * statistics.stdev(found):.0f}" if len(found) > 1 else mean


def table(of: DemoBase, tasks: Sequence[DemoTask], row_name: Callable[[DemoTask], str]) -> str:
    """One line a task and one for the mean of the tasks that need several modules."""
    rows = kept(RAW, of)
    by_task = {
        task.key: [row for (key, _), row in rows.items() if key == task.key] for task in tasks
    }
    names = ["task", "role", "test", *METHODS.values()]
    lines = ["| " + " | ".join(names) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
    for task in tasks:
        found = by_task[task.key]
        if not found:
            continue
        cells = [cell(values(found, method)) for method in METHODS]
        lines.append(
            "| " + " | ".join([row_name(task), task.role, str(found[0]["test"]), *cells]) + " |"
        )
    for role in ("tuning", "report"):
        several = [
            task for task in tasks
            if task.role == role and task.kind in ("mixture", "phrase") and by_task[task.key]
        ]  # fmt: skip
        means = []
        for method in METHODS:
            scores = [values(by_task[task.key], method) for task in several]
            full = [statistics.fmean(found) for found in scores if found]
            means.append(f"**{100 * statistics.fmean(full):.0f}**" if full else "–")
        name = f"**mean of the {len(several)} mixtures and phrases**"
        lines.append("| " + " | ".join([name, role, "", *means]) + " |")
    return "\n".join(lines)


def report(of: DemoBase, tasks: Sequence[DemoTask]) -> str:
    draws = {draw for _, draw in kept(RAW, of) if draw is not None}
    rec, paper = recommended(), as_in_the_paper()
    lorahub = with_combination(rec, "lorahub")
    return f"""
Exact match in per cent on held-out words, mean ± standard deviation over {len(draws)} draws of
{SHOTS} examples; every method sees the same examples. The tuning tasks decided the recommended
preset, the report tasks only report. One base model, one set of modules, one family of tasks: this
says nothing about large models.

- *zero-shot*: the base model alone. *uniform*: the mean of all 20 modules' ΔW (`sum`, 1/N).
  *in context*: the examples stand before the input; pretraining had such lines for one word only.
- *best single*: the module of lowest loss on the examples. *fresh LoRA*: a new one (r 8, 50 steps)
  trained on the examples. *control*: the `sum` search over the same modules turned in random
  directions, all norms kept.
- *`lorahub`* and *`sum`*: all 20 modules, {rec.budget} evaluations of Cobyla, penalty
  {rec.penalty:g}; x0 {lorahub.x0:g}, σ {lorahub.sigma:g} and x0 {rec.x0:g}, σ {rec.sigma:g}. The
  recommended preset is `{rec.combination}`. *`sum`, CMA-ES*: the same by CMA-ES.
- *paper*: the preset "as in the paper": `lorahub`, 20 modules, {paper.budget} evaluations of
  CMA-ES, x0 {paper.x0:g}, σ {paper.sigma:g}, penalty {paper.penalty:g}, |w| ≤ {paper.bound:g}.
- *needed at 1*: the modules the task is made of, each at weight 1, added up. No method knows them;
  it shows what the library holds.

{table(of, tasks, lambda task: task.name)}
"""


def write(of: DemoBase, tasks: Sequence[DemoTask]) -> None:
    text = report(of, tasks)
    start, end = START.format(of.name), END.format(of.name)
    docs = DOCS.read_text(encoding="utf-8") if DOCS.exists() else "# Benchmarks\n"
    if start not in docs:
        command = f"{COMMAND} --base {of.family}"
        docs += f"\n## The demo library, {of.name}\n\n    {command}\n\n{start}\n{end}\n"
    before, rest = docs.split(start)
    after = rest.split(end)[1]
    DOCS.parent.mkdir(exist_ok=True)
    DOCS.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")
    results = library.FOLDER / of.family / cards.RESULTS
    results.write_text(f"\n## Results on the unseen tasks\n{text}", encoding="utf-8")
    card = of.folder() / "README.md"
    card.write_text(cards.base_card(library.FOLDER, of), encoding="utf-8")
    print(text)


COMMAND = "python -m benchmarks.demo_results"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the demo's unseen tasks.")
    parser.add_argument("--base", choices=[*library.BASES, "all"], default="all")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--test", type=int, default=240, help="test inputs a task, at most")
    parser.add_argument("--tasks", nargs="*", help="keys; all when left out")
    parser.add_argument("--table-only", action="store_true", help="write from the rows kept")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for of in library.chosen(options.base):
        every = library.tasks(base=of)
        chosen = [task for task in every if not options.tasks or task.key in options.tasks]
        if not options.table_only:
            measure(of, chosen, options.draws, options.test)
        write(of, every)


if __name__ == "__main__":
    main()

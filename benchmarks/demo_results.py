"""How well composing does on the demo's unseen tasks, beside everything simpler.

    python -m benchmarks.demo_results [--base t5|llama|all] [--draws 10] [--test 240]
                                      [--tasks KEY …] [--table-only]

Each draw takes five examples from a task's pool; every method sees the same five. Scores are exact
matches on the task's test inputs, with intervals over draws and test inputs. Rows are kept in
var/demo-results.jsonl, so an interrupted run goes on where it stopped. The tables go into
docs/benchmarks.md and onto the card of their base model, together with what was aimed at and
whether it was reached.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.crowd import OTHERS, PAIRS, crowded
from benchmarks.few_shot import ORDERS, FewShot, bench
from composer.bbh.results import over_tasks
from composer.bbh.split import drawn_modules
from composer.demo import cards, library
from composer.demo.library import DemoBase, DemoTask
from composer.engine import contenders
from composer.engine.compare import hierarchical
from composer.engine.config import as_in_the_paper, recommended, with_combination
from composer.engine.contenders import Contender
from composer.engine.fresh_lora import fresh_lora
from composer.engine.screening import screen
from composer.engine.stack import Stack

Array = NDArray[np.float64]

SHOTS = 5
MIXED = 20  # modules out of the crowd that are mixed
ROOT = Path(__file__).parent.parent
RAW = ROOT / "var" / "demo-results.jsonl"
DOCS = ROOT / "docs" / "benchmarks.md"
# One block a base model.
START, END = "<!-- demo results, {}: start -->", "<!-- demo results, {}: end -->"

SETTINGS = [recommended().to_json(), as_in_the_paper().to_json()]

# What does not depend on the draw is measured once.
FIXED = {"zero": "zero-shot", "uniform": "uniform", "oracle": "needed at 1"}
DRAWN = {
    "icl": "in context",
    "uniform_scaled": "uniform, scaled",
    "single": "best single",
    "control": "randomised",
    "fresh": "fresh LoRA",
    "sum": "**composed**",
    "lorahub": "`lorahub`",
    "cmaes": "CMA-ES",
    "paper": "paper",
    "random": "random 20",
    "ranked": "ranked 20",
}
NAMES = {**FIXED, **DRAWN}
BESIDE = ("zero", "icl", "uniform", "uniform_scaled", "single", "fresh", "control", "sum")
SEARCHES = ("sum", "lorahub", "cmaes", "paper", "ranked", "random", "oracle")
SEVERAL = ("mixture", "phrase")


def hits(few: FewShot, found: Contender) -> list[str]:
    return [few.hits(found.stack, found.weights, found.combination)]


def fixed(few: FewShot) -> dict[str, list[str]]:
    """Nobody who composes knows which modules are needed."""
    needed = np.array([float(name in few.task.modules) for name in few.modules.names])
    oracle = {"oracle": [few.hits(few.modules, needed)]} if needed.any() else {}
    return {
        "zero": [few.hits(None, None)],
        "uniform": hits(few, contenders.uniform(few.modules)),
        **oracle,
    }


def drawn(few: FewShot, draw: int, crowd: Stack) -> dict[str, list[str]]:
    ours = recommended(seed=draw)
    objective = few.objective(draw, ours, few.modules)
    ranking = screen(few.objective(draw, ours, crowd), best=MIXED)
    at_random = drawn_modules(len(crowd), MIXED, seed=0, draw=draw)
    searches = {
        "control": (contenders.randomised_stack(few.modules, draw), ours),
        "sum": (few.modules, ours),
        "lorahub": (few.modules, with_combination(ours, "lorahub")),
        "cmaes": (few.modules, replace(ours, optimiser="cmaes")),
        "paper": (few.modules, as_in_the_paper(seed=draw)),
        "random": (crowd.subset(at_random), ours),
        "ranked": (crowd.subset(ranking.top(MIXED)), ours),
    }
    fresh = fresh_lora(few.base, few.examples(draw), few.template, seed=draw)
    return {
        "icl": few.in_context(draw),
        "uniform_scaled": hits(few, contenders.uniform_scaled(objective)),
        "single": hits(few, contenders.best_single_scaled(objective)),
        "fresh": hits(few, fresh),
        **{
            name: [few.hits(modules, few.searched(draw, config, modules), config.combination)]
            for name, (modules, config) in searches.items()
        },
    }


def measure(of: DemoBase, tasks: Sequence[DemoTask], draws: int, test: int) -> None:
    revision = library.content_revision(of.folder())
    RAW.parent.mkdir(exist_ok=True)
    crowd = crowded(of.family)
    known = Results.kept(of)
    jobs = [(task, draw) for draw in (None, *range(draws)) for task in tasks]
    for task, draw in tqdm(jobs, unit="draw", mininterval=5):
        few = bench(of.family, task.key, SHOTS, test)
        if known.test(task.key, draw) == len(few.test):
            continue
        start = time.perf_counter()
        found = fixed(few) if draw is None else drawn(few, draw, crowd)
        row = {
            "revision": revision,
            "settings": SETTINGS,
            "task": task.key,
            "draw": draw,
            "test": len(few.test),
            "seconds": round(time.perf_counter() - start, 2),
            "hits": found,
        }
        with RAW.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


@dataclass(frozen=True)
class Results:
    """Rows measured on the same base model with the same presets, by task and draw."""

    rows: dict[tuple[str, int | None], dict[str, object]]

    @classmethod
    def kept(cls, of: DemoBase) -> Results:
        revision = library.content_revision(of.folder())
        lines = RAW.read_text(encoding="utf-8").splitlines() if RAW.exists() else []
        rows = [row for row in map(json.loads, lines) if "hits" in row]
        return cls(
            {
                (row["task"], row["draw"]): row
                for row in rows
                if (row["revision"], row["settings"]) == (revision, SETTINGS)
            }
        )

    def test(self, key: str, draw: int | None) -> object:
        return self.rows.get((key, draw), {}).get("test")

    @cached_property
    def draws(self) -> int:
        """As many as there are of every task."""
        tasks = {key for key, _ in self.rows}
        whole = (n for n in count() if any((key, n) not in self.rows for key in tasks))
        return next(whole)

    def values(self, key: str, method: str) -> list[Array]:
        """One number a test input for each draw; none where the task has no such method. What does
        not depend on the draw is the same in all."""
        numbers = [None] * self.draws if method in FIXED else list(range(self.draws))
        found = [self.rows[key, number]["hits"] for number in numbers]
        return [
            np.array([list(map(int, each)) for each in hits[method]], dtype=float).mean(axis=0)
            for hits in found
            if isinstance(hits, dict) and method in hits
        ]

    def gaps(self, key: str, first: str, second: str) -> list[Array]:
        pairs = zip(self.values(key, first), self.values(key, second), strict=True)
        return [a - b for a, b in pairs]


@dataclass(frozen=True)
class Share:
    """In per cent, with its 95% interval over draws and test inputs."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Sequence[Array]) -> Share:
        found = hierarchical(draws)
        mean = float(np.mean([each.mean() for each in draws]))
        return cls(*(100 * each + 0.0 for each in (mean, found.low, found.high)))

    def __str__(self) -> str:
        return f"{self.mean:.0f} ({self.low:.0f}–{self.high:.0f})"


# --- tables --------------------------------------------------------------------------------------


def table(
    results: Results,
    tasks: Sequence[DemoTask],
    methods: Sequence[str],
    row_name: Callable[[DemoTask], str] = lambda task: task.name,
) -> str:
    """One line a task, and for each role one of the mean of those that need several modules."""
    names = ["task", "role", "test", *(NAMES[method] for method in methods)]
    lines = [_line(names), "|---|---|" + "---:|" * (len(names) - 2)]
    for task in tasks:
        cells = [_cell(results.values(task.key, method)) for method in methods]
        test = str(results.test(task.key, None))
        lines.append(_line([row_name(task), task.role, test, *cells]))
    for role in ("tuning", "report"):
        several = [task for task in tasks if task.role == role and task.kind in SEVERAL]
        if not several:
            continue
        cells = [
            _cell(over_tasks([results.values(task.key, method) for task in several]))
            for method in methods
        ]
        lines.append(_line([f"**the {len(several)} mixtures and phrases**", role, "", *cells]))
    return "\n".join(lines)


def _cell(draws: Sequence[Array]) -> str:
    return str(Share.of(draws)) if draws else "–"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Aim:
    """The first method minus the second, in points: the mean at least `mean`, and the lower end of
    its interval at least `low`."""

    words: str
    first: str
    second: str
    mean: float
    low: float | None = None

    def is_met(self, gap: Share) -> bool:
        return gap.mean >= self.mean and (self.low is None or gap.low >= self.low)


def _aims(of: str, which: str) -> tuple[Aim, ...]:
    return (
        Aim(f"{which}: at most 2 points below the best single module", of, "single", -2),
        Aim(f"{which}: not inferior to a fresh LoRA by 3 points", of, "fresh", -3, -3),
        Aim(f"{which}: 10 points above the search over randomised modules", of, "control", 10),
    )


AIMS = (
    *_aims("sum", "composed"),
    *_aims("ranked", "ranked 20 of 100"),
    Aim("ranked 20 of 100: above random 20 of them", "ranked", "random", 0, 0),
)
WHERE_SEVERAL = (
    Aim("composed: above the best single module", "sum", "single", 0, 0),
    Aim("ranked 20 of 100: above the best single module", "ranked", "single", 0, 0),
)


def aims(results: Results, tasks: Sequence[DemoTask]) -> str:
    """Of the report tasks, which chose nothing."""
    report = [task for task in tasks if task.role == "report"]
    several = [task for task in report if task.kind in SEVERAL]
    rows = [(aim, report) for aim in AIMS] + [(aim, several) for aim in (*AIMS, *WHERE_SEVERAL)]
    lines = [
        "| aim | report tasks | difference | |",
        "|---|---|---:|---|",
    ]
    for aim, over in rows:
        gap = Share.of(over_tasks([results.gaps(task.key, aim.first, aim.second) for task in over]))
        which = f"all {len(over)}" if over is report else f"the {len(over)} that need several"
        points = f"{gap.mean:+.1f} ({gap.low:+.1f} to {gap.high:+.1f})".replace("-", "−")
        lines.append(_line([aim.words, which, points, "met" if aim.is_met(gap) else "**missed**"]))
    return "\n".join(lines)


def report(of: DemoBase, tasks: Sequence[DemoTask]) -> str:
    results = Results.kept(of)
    rec, paper = recommended(), as_in_the_paper()
    lorahub = with_combination(rec, "lorahub")
    return f"""
Exact match in per cent on held-out words: the mean of {results.draws} draws of {SHOTS} examples,
with 95% intervals over draws and test inputs (a hierarchical bootstrap); every method sees the same
examples. The tuning tasks decided the recommended preset, the report tasks only report. One base
model, one set of modules, one family of tasks: this says nothing about large models.

**What was aimed at.** The library has 20 modules, so a ranking of it keeps all; what a ranking is
good for shows among 100. Differences in points, the mean and its 95% interval:

{aims(results, tasks)}

**Composing, and what it is compared with**

- *zero-shot*: the base model alone. *in context*: the examples stand before the input, in
  {ORDERS} orders; pretraining had such lines for one word only.
- *uniform*: the mean of all 20 modules' ΔW (`sum`, 1/N). *uniform, scaled* and *best single*: at
  their best of {contenders.SCALES} scales; the module is the one of lowest loss on the examples.
- *fresh LoRA*: a new one (r 8, 50 steps) trained on the examples. *randomised*: the same search
  over the same modules turned in random directions, all norms kept.
- **composed**: the recommended preset over all 20 modules: `{rec.combination}`, {rec.budget}
  evaluations of Cobyla, x0 {rec.x0:g}, σ {rec.sigma:g}, penalty {rec.penalty:g}.

{table(results, tasks, BESIDE)}

**Other searches, and other modules**

- *`lorahub`*: that combination at x0 {lorahub.x0:g}, σ {lorahub.sigma:g}. *CMA-ES*: the recommended
  preset with it. *paper*: the preset "as in the paper": `lorahub`, {paper.budget} evaluations of
  CMA-ES, x0 {paper.x0:g}, σ {paper.sigma:g}, penalty {paper.penalty:g}, |w| ≤ {paper.bound:g}.
- *ranked 20* and *random 20*: the recommended search over {MIXED} of {OTHERS + 20} modules, the
  best alone on the examples or drawn at random. There are the 20 of the demo, and {OTHERS} that
  were trained on {PAIRS} arbitrary pairs of words each.
- *needed at 1*: the modules the task is made of, each at weight 1, added up. No method knows them;
  it shows what the library holds.

{table(results, tasks, SEARCHES)}
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
        measured = [task for task in every if Results.kept(of).test(task.key, None) is not None]
        write(of, measured)


if __name__ == "__main__":
    main()

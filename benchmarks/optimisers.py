"""Which optimiser, what to choose the best on, how many modules, which rank: on the demo library.

    python -m benchmarks.optimisers [--base t5|llama] [--draws 10] [--shots 5 20] [--processes 2]
    python -m benchmarks.optimisers --starts | --counted | --modules | --rank | --rotated
    python -m benchmarks.optimisers --functions [--weights 20]

Without a section: all optimisers and selections on the tuning tasks, at 40, 100 and 200
forward-equivalents, beside fresh LoRA, the randomised control and everything simpler. `--starts`
compares where Cobyla begins and with which step, `--counted` what searches by counted answers.
The default is chosen by these alone; benchmarks/demo_results.py then measures it on the report
tasks. Every method sees the same draws of examples. Rows are kept in var/optimisers.jsonl, so an
interrupted run goes on where it stopped; `--table-only` prints the tables of the rows kept.

One evaluation is one candidate on all examples; a gradient is charged three. Seconds are the
processor's, one thread, for the search alone. A figure is the mean over the tasks ± its standard
error over the draws.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.few_shot import FewShot, bench
from benchmarks.synthetic import FUNCTIONS
from composer.demo import library
from composer.engine import contenders
from composer.engine.config import SearchConfig, recommended, with_combination
from composer.engine.export import factors_of
from composer.engine.fresh_lora import fresh_lora
from composer.engine.generation import Generation
from composer.engine.optimisers import FORWARDS_PER_GRADIENT
from composer.engine.screening import screen
from composer.engine.search import search
from composer.engine.stack import Stack
from composer.engine.truncate import truncate

BUDGETS = (40, 100, 200)
LONG = 1000  # what the five searches of `folds` need to have 200 each
KINDS = ("mixture", "phrase")  # the others are at the ceiling, or at zero, whatever is done
ROOT = Path(__file__).parent.parent
RAW = ROOT / "var" / "optimisers.jsonl"
Row = dict[str, Any]


def by_cmaes() -> SearchConfig:
    return replace(recommended(max(BUDGETS)), optimiser="cmaes")


def by_cobyla() -> SearchConfig:
    return replace(recommended(max(BUDGETS)), optimiser="cobyla")


def optimisers() -> dict[str, SearchConfig]:
    """What the tuning tasks choose between."""
    cmaes, cobyla = by_cmaes(), by_cobyla()
    lbfgs = replace(cmaes, optimiser="lbfgs")
    lorahub = with_combination(cmaes, "lorahub")
    return {
        "cmaes": cmaes,
        "cmaes, restarts": replace(cmaes, restarts=5),
        "cmaes, no singles": replace(cmaes, singles=False),
        "cobyla": cobyla,
        "cobyla, no singles": replace(cobyla, singles=False),
        "random": replace(cmaes, optimiser="random"),
        "lbfgs": lbfgs,
        "cmaes, validation": replace(cmaes, selection="validation"),
        "cmaes, folds": replace(cmaes, selection="folds"),
        "cobyla, validation": replace(cobyla, selection="validation"),
        "cobyla, folds": replace(cobyla, selection="folds"),
        "lbfgs, validation": replace(lbfgs, selection="validation"),
        "lbfgs, folds": replace(lbfgs, selection="folds"),
        "cmaes, longer": replace(cmaes, budget=LONG),
        "cmaes, folds, longer": replace(cmaes, budget=LONG, selection="folds"),
        "`lorahub`, cmaes": lorahub,
        "`lorahub`, cobyla": replace(lorahub, optimiser="cobyla"),
        "`lorahub`, lbfgs": replace(lorahub, optimiser="lbfgs"),
    }


# x0 and σ. `lorahub` and `linear` are stationary at zero; `linear` takes the roots of its weights,
# so that 0.01 there is what 0.1 is for `lorahub`.
GRIDS = {
    "sum": ((0.0, 0.1, 0.2), (0.1, 0.2, 0.4)),
    "lorahub": ((0.1, 0.2), (0.1, 0.2, 0.4)),
    "linear": ((0.01, 0.03), (0.01, 0.03, 0.1)),
}


def starts() -> dict[str, SearchConfig]:
    """Where Cobyla begins, and its first step."""
    return {
        f"`{combination}`, x0 {x0:g}, σ {sigma:g}": replace(
            with_combination(by_cobyla(), combination), x0=x0, sigma=sigma
        )
        for combination, grid in GRIDS.items()
        for x0, sigma in itertools.product(*grid)
    }


def counted() -> dict[str, SearchConfig]:
    """Searching by exact matches, which come in steps, against searching by the loss."""
    return {
        f"by {objective}, {config.optimiser}": replace(config, objective=objective)
        for objective in ("exact_match", "paper")
        for config in (by_cmaes(), by_cobyla())
    }


def both() -> dict[str, SearchConfig]:
    """The two combinations by CMA-ES: what the sections on modules, ranks and bases compare."""
    cmaes = by_cmaes()
    return {"`sum`": cmaes, "`lorahub`": with_combination(cmaes, "lorahub")}


# --- one search, read at several budgets -------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """The best weights within a budget, and the processor's seconds of the search so far."""

    budget: int
    weights: np.ndarray
    seconds: float


def searched_at(objective: Any, n: int, config: SearchConfig) -> Iterator[Found]:
    """A search of a smaller budget is the beginning of a larger one's, except that `folds` keeps
    one evaluation for the end."""
    budgets = [b for b in BUDGETS if b <= config.budget <= max(BUDGETS)] or [config.budget]
    start = time.process_time()
    if config.selection == "folds":
        for budget in budgets:
            *_, last = search(objective, n, replace(config, budget=budget))
            yield Found(budget, last.best_weights, time.process_time() - start)
            start = time.process_time()
        return
    generations, seconds = [], []
    for generation in search(objective, n, config):
        generations.append(generation)
        seconds.append(time.process_time() - start)
    for budget in budgets:
        ended = next((i for i, g in enumerate(generations) if g.evaluations >= budget), -1)
        yield Found(budget, best_at(generations, budget, config), seconds[ended])


def best_at(generations: Sequence[Generation], budget: int, config: SearchConfig) -> np.ndarray:
    cost = FORWARDS_PER_GRADIENT if config.optimiser == "lbfgs" else 1
    costs = [np.full(len(g.weights), cost if g.number else 1) for g in generations]
    spent = np.cumsum(np.concatenate(costs)) <= budget
    by = [g.losses if g.selection_losses is None else g.selection_losses[:, 0] for g in generations]
    weights = np.concatenate([g.weights for g in generations])
    return weights[np.argmin(np.where(spent, np.concatenate(by), np.inf))]


# --- sections: what is done with one draw of one task ------------------------------------------


def row(few: FewShot, name: str, budget: int, modules: Stack, weights: np.ndarray,
        combination: str = "sum", objective: float | None = None) -> Row:  # fmt: skip
    worth = few.worth(modules, weights, combination)
    return {"name": name, "budget": budget, "objective": objective, **vars(worth)}


def search_rows(
    few: FewShot, draw: int, variants: dict[str, SearchConfig], modules: Stack, prefix: str = ""
) -> list[Row]:
    found = []
    for name, config in variants.items():
        config = replace(config, seed=draw)
        objective = few.objective(draw, config, modules)
        for at in searched_at(objective, len(modules), config):
            loss = float(objective(at.weights[None])[0])
            measured = row(
                few, prefix + name, at.budget, modules, at.weights, config.combination, loss
            )
            found.append({**measured, "seconds": at.seconds})
    return found


def neighbours(few: FewShot, draw: int) -> list[Row]:
    """Everything simpler, the control, and a fresh LoRA, on the same examples."""
    objective = few.objective(draw, by_cmaes(), few.modules)
    fresh = fresh_lora(few.base, few.examples(draw), few.template, seed=draw)
    found = [
        row(few, each.name, each.cost, each.stack, each.weights, each.combination, each.loss)
        for each in (
            contenders.uniform(few.modules),
            contenders.uniform_scaled(objective),
            contenders.best_single(objective),
            contenders.best_single_scaled(objective),
            fresh,
        )
    ]
    zero = few.worth(few.modules, np.zeros(len(few.modules)))
    found.append({"name": "zero-shot", "budget": 0, "objective": None, **vars(zero)})
    in_context = few.in_context(draw)
    found.append({"name": "in context", "budget": 0, "objective": None, "held_out": in_context,
                  "held_out_loss": None})  # fmt: skip
    control = contenders.randomised_stack(few.modules, draw)
    return found + search_rows(few, draw, {"cmaes": by_cmaes()}, control, "control, ")


def tuning(few: FewShot, draw: int) -> list[Row]:
    return search_rows(few, draw, optimisers(), few.modules) + neighbours(few, draw)


def last_only(rows: Sequence[Row]) -> list[Row]:
    return [each for each in rows if each["budget"] == max(BUDGETS)]


def how_many(few: FewShot, draw: int) -> list[Row]:
    """5, 10 and all modules: drawn at random, or the first of a ranking by their loss alone, which
    costs N more."""
    found = []
    N = len(few.modules)
    ranked = screen(few.objective(draw, by_cmaes(), few.modules))
    order = np.random.default_rng([draw, N]).permutation(N)
    for k in (5, 10, 20):
        for how, some in (("random", sorted(order[:k].tolist())), ("ranked", ranked.top(k))):
            if k < N or how == "random":
                modules = few.modules.subset(some)
                name = f"{k} {how}, " if k < N else "all, "
                rows = last_only(search_rows(few, draw, both(), modules, name))
                more = N if how == "ranked" else 0
                found += [{**each, "budget": each["budget"] + more} for each in rows]
    return found


def ranks(few: FewShot, draw: int) -> list[Row]:
    """Modules cut down to a rank before they are searched; and the found `sum` cut down after."""
    found = []
    full = few.modules.rank
    for rank in (1, 2, 4, 8, 16):
        if rank <= full:
            modules = few.modules if rank == full else cut(few.modules, rank)
            name = f"modules of rank {rank}, "
            found += last_only(search_rows(few, draw, both(), modules, name))
    config = replace(by_cmaes(), seed=draw)
    weights = few.searched(draw, config)
    exact = factors_of(weights, few.modules, "sum").exact_rank
    for rank, named in [*((r, str(r)) for r in (2, 4, 8, 16, 32)), (exact, "Σ r_i")]:
        short = factors_of(weights, few.modules, "sum", rank=rank)
        errors = list(short.errors.values()) or [0.0]
        name = f"`sum`, export of rank {named}"
        cut_down = row(few, name, config.budget, short.as_stack(few.modules), np.ones(1))
        found.append({**cut_down, "error": statistics.fmean(errors)})
    return found


def cut(modules: Stack, rank: int) -> Stack:
    """Each module's best approximation of a lower rank, the rest of its directions zeros."""
    A = {layer: torch.zeros_like(factor) for layer, factor in modules.A.items()}
    B = {layer: torch.zeros_like(factor) for layer, factor in modules.B.items()}
    for n in range(len(modules)):
        own_A = {layer: factor[n] for layer, factor in modules.A.items()}
        own_B = {layer: factor[n] for layer, factor in modules.B.items()}
        short = truncate(own_A, own_B, rank)
        for layer in A:
            A[layer][n, :rank] = short.A[layer]
            B[layer][n, :, :rank] = short.B[layer]
    return modules.with_factors(A, B)


def rotated(few: FewShot, draw: int) -> list[Row]:
    """The same modules stored in other bases, three of them for each draw."""
    found = last_only(search_rows(few, draw, both(), few.modules, "as stored, "))
    for turn in range(3):
        modules = contenders.rotated_stack(few.modules, 1000 * draw + turn)
        found += last_only(search_rows(few, draw, both(), modules, "rotated, "))
    return found


VARIANTS: dict[str, Callable[[], dict[str, SearchConfig]]] = {
    "tuning": optimisers,
    "starts": starts,
    "counted": counted,
    "modules": both,
    "rank": both,
    "rotated": both,
}
SECTIONS: dict[str, Callable[[FewShot, int], list[Row]]] = {
    "tuning": tuning,
    "starts": lambda few, draw: search_rows(few, draw, starts(), few.modules),
    "counted": lambda few, draw: last_only(search_rows(few, draw, counted(), few.modules)),
    "modules": how_many,
    "rank": ranks,
    "rotated": rotated,
}


# --- jobs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    section: str
    family: str
    task: str
    draw: int
    shots: int
    test: int

    def key(self) -> str:
        return json.dumps([*vars(self).values(), settings(self.section), revision(self.family)])


def settings(section: str) -> str:
    """Rows are kept for the settings they were measured with."""
    every = VARIANTS[section]()
    text = json.dumps({name: config.to_json() for name, config in every.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def revision(family: str) -> str:
    return library.content_revision(library.BASES[family].folder())[:12]


def do(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    start = time.process_time()
    few = bench(job.family, job.task, job.shots, job.test)
    rows = SECTIONS[job.section](few, job.draw)
    seconds = round(time.process_time() - start, 1)
    return {"key": job.key(), **vars(job), "seconds": seconds, "rows": rows}


def kept() -> dict[str, dict[str, Any]]:
    if not RAW.exists():
        return {}
    lines = RAW.read_text(encoding="utf-8").splitlines()
    return {found["key"]: found for found in map(json.loads, lines)}


def measure(jobs: Sequence[Job], processes: int) -> None:
    known = kept()
    todo = [job for job in jobs if job.key() not in known]
    RAW.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(do, job) for job in todo]
        for done in tqdm(as_completed(running), total=len(todo), unit="draw", mininterval=5):
            with RAW.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done.result()) + "\n")


# --- tables ------------------------------------------------------------------------------------


def table(jobs: Sequence[Job]) -> str:
    """A line for each method; where a method was read at several budgets, a column for each."""
    known = kept()
    found = [known[job.key()] for job in jobs if job.key() in known]
    rows = [
        {**each, "task": one["task"], "draw": one["draw"]} for one in found for each in one["rows"]
    ]
    names = list(dict.fromkeys(each["name"] for each in rows))
    lines = [
        "| | forward-equivalents | seconds | objective | held-out loss | held-out exact match |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in names:
        own = [each for each in rows if each["name"] == name]
        budgets = sorted({each["budget"] for each in own})
        at = [[each for each in own if each["budget"] == budget] for budget in budgets]
        cells = [
            " / ".join(map(str, budgets)),
            " / ".join(figure(some, "seconds", 1) for some in at),
            " / ".join(figure(some, "objective", 3) for some in at),
            " / ".join(figure(some, "held_out_loss", 2) for some in at),
            " / ".join(figure(some, "held_out", 1, 100, error=True) for some in at),
        ]
        if any("error" in each for each in own):
            cells[2] = f"ΔW off by {100 * statistics.fmean(each['error'] for each in own):.0f}%"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    seconds = sum(one["seconds"] for one in found)
    several = f"{len(found)} draws of {len({one['task'] for one in found})} tasks"
    return "\n".join([*lines, "", f"{several}; {seconds:.0f} s of one processor in all."])


def figure(
    rows: Sequence[Row], what: str, digits: int, times: float = 1, *, error: bool = False
) -> str:
    """The mean over the tasks, ± its standard error over the draws."""
    draws = sorted({each["draw"] for each in rows})
    means = []
    for draw in draws:
        some = [each.get(what) for each in rows if each["draw"] == draw]
        if not some or any(value is None for value in some):
            return "–"
        means.append(times * statistics.fmean(some))
    shown = f"{statistics.fmean(means):.{digits}f}"
    if error and len(means) > 1:
        shown += f" ± {statistics.stdev(means) / len(means) ** 0.5:.{digits}f}"
    return shown


def functions(draws: int, n: int, budgets: Sequence[int] = (*BUDGETS, 1000)) -> str:
    """f of n weights at the best of so many evaluations, as a share of f at zero; median of the
    draws."""
    ours = replace(by_cmaes(), budget=max(budgets), singles=False, penalty=0.0)
    variants = {
        "cmaes": ours,
        "cmaes, restarts": replace(ours, restarts=5),
        "cobyla": replace(ours, optimiser="cobyla"),
        "random": replace(ours, optimiser="random"),
        "lbfgs": replace(ours, optimiser="lbfgs"),
    }
    lines = [
        "| | " + " | ".join(FUNCTIONS) + " |",
        "|---|" + "---:|" * len(FUNCTIONS),
    ]
    for name, config in variants.items():
        cells = []
        for make in FUNCTIONS.values():
            shares = [
                shares_at(make(draw, n), n, replace(config, seed=draw), budgets)
                for draw in range(draws)
            ]
            medians = [statistics.median(each) for each in zip(*shares, strict=True)]
            cells.append(" / ".join(f"{share:.2g}" for share in medians))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    at = " / ".join(map(str, budgets))
    return "\n".join([*lines, "", f"After {at} forward-equivalents, {n} weights."])


def shares_at(function: Any, n: int, config: SearchConfig, budgets: Sequence[int]) -> list[float]:
    generations = list(search(function, n, config))
    zero = float(function(np.zeros((1, n)))[0])
    best = [best_at(generations, budget, config) for budget in budgets]
    return [float(function(weights[None])[0]) / zero for weights in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    sections = parser.add_mutually_exclusive_group()
    for name in ("functions", *(name for name in SECTIONS if name != "tuning")):
        sections.add_argument(f"--{name}", action="store_const", const=name, dest="section")
    parser.add_argument("--base", choices=list(library.BASES), default="t5")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--shots", type=int, nargs="+", default=[5])
    parser.add_argument("--test", type=int, default=120, help="test inputs a task, at most")
    parser.add_argument("--weights", type=int, nargs="+", default=[20], help="of --functions")
    parser.add_argument("--tasks", nargs="*", help="keys; all of the section when left out")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--table-only", action="store_true")
    options = parser.parse_args()
    section = options.section or "tuning"
    if section == "functions":
        for n in options.weights:
            print(f"\n{functions(options.draws, n)}")
        return
    keys = options.tasks or [
        task.key for task in library.tasks(base=library.BASES[options.base])
        if task.role == "tuning" and task.kind in KINDS
    ]  # fmt: skip
    for shots in options.shots:
        jobs = [
            Job(section, options.base, key, draw, shots, options.test)
            for draw in range(options.draws)
            for key in keys
        ]
        if not options.table_only:
            measure(jobs, options.processes)
        print(f"\n{section}, {options.base}, {shots} examples\n\n{table(jobs)}")


if __name__ == "__main__":
    main()

"""Does the verdict say what is true? Libraries whose truth is known, and the sentence for each.

    python -m benchmarks.planted [--base t5|llama] [--draws 50] [--test 240] [--further 1000]

Four kinds, each with so many draws of five examples of the demo's tasks:

relevant   the needed modules, added up, are one module, among all others that were trained
none       all modules are turned in random directions, so that nothing they learnt is left
single     the needed modules, added up, are one module, among others turned in random directions
two        the needed modules are there, two or more, among all others

Everything is done as a worker does it: the rival is chosen on the examples, modules are ranked and
searched, every way answers the test, and the rules write the sentence from 240 test inputs.

A sentence is judged twice. By the plant: is it of a kind that this library was made for? And by
what every way gets right of a thousand further inputs that no rule has seen: does it hold there?
The two part where the plant is not the whole truth: five examples can train a LoRA that is as good
as the two modules that the task was made of. Rows are kept in var/planted.jsonl, so an interrupted
run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.few_shot import opened
from composer.bbh.measure import as_read
from composer.bbh.methods import METHODS, Answered, Draw, Readable
from composer.bbh.protocol import Protocol
from composer.bbh.split import BenchTask
from composer.demo import library
from composer.demo import tasks as made_tasks
from composer.demo.library import DemoTask
from composer.engine import comparator
from composer.engine.compare import MARGIN, wilson
from composer.engine.config import recommended
from composer.engine.contenders import randomised_stack
from composer.engine.examples import Example
from composer.engine.export import export
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.stack import Stack, load
from composer.fetched import Source
from composer.verdict import HOPELESS, RIVALS, SIMPLE, Verdict, verdict
from composer.workbench import Workbench

ROOT = Path(__file__).parent.parent
RAW = ROOT / "var" / "planted.jsonl"
# What the verdict should say of each kind of library, by the verdict's kinds.
PLANTED = {
    "relevant": ("use", "single"),
    "none": ("nothing", "train", "in_context"),
    "single": ("single",),
    "two": ("use",),
}
# Of the benchmark's methods, by the verdict's names.
WAYS = {
    "ranked": "composed",
    "zero_shot": "zero_shot",
    "in_context": "in_context",
    "best_single": "best_single",
    "uniform": "uniform",
    "uniform_scaled": "uniform_scaled",
    "fresh_lora": "fresh_lora",
}


def chosen(tasks: Sequence[DemoTask]) -> list[DemoTask]:
    """Those that need several modules: they have test inputs enough."""
    return [task for task in tasks if task.kind in ("mixture", "phrase")]


def planted(kind: str, task: DemoTask, family: str, seed: int) -> Stack:
    """The library of one draw."""
    _, stack = opened(family)
    needed = [n for n, name in enumerate(stack.names) if name in task.modules]
    if kind == "two":
        return stack
    if kind == "none":
        return randomised_stack(stack, seed)
    whole = with_sum(family, tuple(needed))
    if kind == "relevant":
        return whole
    turned = randomised_stack(whole, seed)
    rows = turned.rows.clone()
    rows[-1] = whole.rows[-1]
    return replace(turned, rows=rows, names=whole.names)


@cache
def with_sum(family: str, needed: tuple[int, ...]) -> Stack:
    """The others, and last one module that is the sum of the needed ones."""
    base, stack = opened(family)
    weights = np.zeros(len(stack))
    weights[list(needed)] = 1.0
    folders = library.BASES[family].module_folders()
    others = [n for n in range(len(stack)) if n not in needed]
    with tempfile.TemporaryDirectory() as folder:
        export(weights.tolist(), stack, "sum", Path(folder))
        return load(
            [*(folders[n] for n in others), Path(folder)],
            base,
            names=[*(stack.names[n] for n in others), "the sum of the needed"],
        )


def further(task: DemoTask, test: int, count: int) -> list[Example]:
    """Inputs of the same task beyond those of its test, as many as its words allow."""
    spec = next(spec for spec in made_tasks.SPECS if spec.key == task.key)
    _, words = made_tasks.halves(spec)
    every = made_tasks.drawn(spec, words, len(task.test) + count, "test")
    known = [(each.input, each.target) for each in task.test]
    assert every[: len(known)] == known
    return [Example(*pair) for pair in [*known[test:], *every[len(known) :]]][:count]


def measured(
    kind: str, task: DemoTask, draw: int, family: str, test: int, more: int
) -> dict[str, Any]:
    """One draw of one library: what the rules read, and what every way is worth on further
    inputs."""
    base, _ = opened(family)
    modules = planted(kind, task, family, draw)
    here = Source(base.folder.name, base.folder)
    bench = Workbench(base, modules, here, ())
    template = Template(task.template)
    first = [Example(each.input, each.target) for each in task.test[:test]]
    made = BenchTask(
        name=task.key,
        digest="",
        pool=tuple(Example(each.input, each.target) for each in task.pool),
        test=(*first, *further(task, test, more)),
    )
    rules = Protocol(modules=len(modules), ranked=len(modules), batch=120)
    (readable,), _ = as_read([made], base, template, rules)
    assert isinstance(readable, Readable) and not readable.too_long
    drawn = Draw(bench, readable, template, rules, draw)
    asking = comparator.Asking(
        Objective.of(base, modules, drawn.examples, template, recommended()),
        drawn.examples,
        template,
    )
    rival = comparator.choose(asking, seed=draw).key
    rows, truth = [], {}
    for method, key in WAYS.items():
        found = answered(method, drawn, family)
        scores = [sum(map(int, column)) / len(column) for column in zip(*found.hits, strict=True)]
        rows.append(row(key, found, scores[: len(first)]))
        truth[key] = sum(scores[len(first) :]) / max(1, len(scores) - len(first))
    return {
        "kind": kind, "task": task.key, "draw": draw, "truth": truth,
        "further": len(made.test) - len(first),
        "evidence": {"methods": rows, "comparator": {"key": rival}},
    }  # fmt: skip


def answered(method: str, drawn: Draw, family: str) -> Answered:
    """What needs no module of the library is the same in all four."""
    if method not in ("zero_shot", "in_context", "fresh_lora"):
        return METHODS[method].answer(drawn)
    key = family, method, drawn.readable.name, drawn.number, len(drawn.readable.test)
    if key not in _KNOWN:
        _KNOWN[key] = METHODS[method].answer(drawn)
    return _KNOWN[key]


_KNOWN: dict[tuple[object, ...], Answered] = {}


def row(key: str, found: Answered, scores: Sequence[float]) -> dict[str, Any]:
    """What the verdict reads of one way's answers to the test."""
    total = len(scores)
    interval = wilson(round(sum(scores)), total)
    facts = {
        "key": key, "correct": sum(scores), "total": total, "low": interval.low,
        "high": interval.high, "detail": str(found.detail.get("module", "")), "tokens": 6.0,
    }  # fmt: skip
    if len(found.hits) == 1:
        return {**facts, "hits": found.hits[0][:total]}
    return {**facts, "scores": list(scores)}


def said(row: Mapping[str, Any]) -> Verdict:
    """By the rules as they are now."""
    found = verdict(row["evidence"])
    assert found is not None
    return found


def holds(says: str, truth: Mapping[str, float]) -> bool:
    """Is the sentence true of what every way gets right of the further inputs? "As good" is at
    most MARGIN worse; "use it" must be better than whatever else there is; that nobody can tell
    is never counted as true."""
    composed = truth["composed"]
    if says == "use":
        return composed > max(truth[key] for key in RIVALS)
    if says == "nothing":
        best = max(truth["composed"], truth["best_single"])
        return best <= truth["zero_shot"] + MARGIN or max(truth.values()) <= HOPELESS
    simpler = {
        "single": ("best_single",),
        "train": ("fresh_lora",),
        "in_context": ("in_context",),
        "average": ("uniform", "uniform_scaled"),
        "simpler": SIMPLE,
    }
    return any(truth[key] >= composed - MARGIN for key in simpler.get(says, ()))


def kept() -> list[dict[str, Any]]:
    if not RAW.exists():
        return []
    return [json.loads(line) for line in RAW.read_text(encoding="utf-8").splitlines()]


def report(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| library | draws | as planted | true further on | wrong “use it” | what was said |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for kind in (*PLANTED, None):
        found = [row for row in rows if kind in (None, row["kind"])]
        if not found:
            continue
        says = [said(row).kind for row in found]
        planted = sum(each in PLANTED[row["kind"]] for each, row in zip(says, found, strict=True))
        true = [holds(each, row["truth"]) for each, row in zip(says, found, strict=True)]
        wrong = sum(each == "use" and not is_true for each, is_true in zip(says, true, strict=True))
        told = ", ".join(f"{each} {count}" for each, count in Counter(says).most_common())
        shares = " | ".join(share(each, len(found)) for each in (planted, sum(true), wrong))
        lines.append(f"| {kind or '**all**'} | {len(found)} | {shares} | {told} |")
    return "\n".join(lines)


def share(count: int, total: int) -> str:
    interval = wilson(count, total)
    low, high = (f"{100 * each:.0f}" for each in (interval.low, interval.high))
    return f"{100 * count / total:.0f}% ({low}–{high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", choices=list(library.BASES), default="t5")
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--test", type=int, default=240)
    parser.add_argument("--further", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    RAW.parent.mkdir(exist_ok=True)
    every = library.tasks(base=library.BASES[given.base])
    known = {(row["base"], row["kind"], row["task"], row["draw"]) for row in kept()}
    tasks = chosen(every)
    jobs = [
        (kind, tasks[draw % len(tasks)], draw) for draw in range(given.draws) for kind in PLANTED
    ]
    for kind, task, draw in tqdm(jobs, unit="draw", mininterval=5):
        if (given.base, kind, task.key, draw) in known:
            continue
        found = measured(kind, task, draw, given.base, given.test, given.further)
        with RAW.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"base": given.base, **found}) + "\n")
    rows = [row for row in kept() if row["base"] == given.base]
    for row in rows:
        told = said(row)
        if told.kind not in PLANTED[row["kind"]] or not holds(told.kind, row["truth"]):
            print(f"{row['kind']}, {row['task']}, draw {row['draw']}: {told.sentence}")
    print(report(rows))


if __name__ == "__main__":
    main()

"""Does the verdict say what is true? Libraries whose truth is known, and the sentence for each.

    python -m benchmarks.planted [--base t5|llama] [--draws 50] [--test 240]

Four kinds, each with so many draws of five examples of the demo's tasks:

relevant   the needed modules, added up, are one module, among all others that were trained
none       all modules are turned in random directions, so that nothing they learnt is left
single     the needed modules, added up, are one module, among others turned in random directions
two        the needed modules are there, two or more, among all others

Everything is done as a worker does it: the rival is chosen on the examples, modules are ranked and
searched, every way answers the test, and the rules write the sentence. Rows are kept in
var/planted.jsonl, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.few_shot import opened
from composer.bbh.measure import as_read
from composer.bbh.methods import METHODS, Draw, Readable
from composer.bbh.protocol import Protocol
from composer.bbh.split import BenchTask
from composer.demo import library
from composer.demo.library import DemoTask
from composer.engine import comparator
from composer.engine.compare import wilson
from composer.engine.config import recommended
from composer.engine.contenders import randomised_stack
from composer.engine.examples import Example
from composer.engine.export import export
from composer.engine.objective import Objective
from composer.engine.prompt import Template
from composer.engine.stack import Stack, load
from composer.fetched import Source
from composer.verdict import verdict
from composer.workbench import Workbench

ROOT = Path(__file__).parent.parent
RAW = ROOT / "var" / "planted.jsonl"
CORRECT = {
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


def said(kind: str, task: DemoTask, draw: int, family: str, test: int) -> dict[str, Any]:
    """One draw of one library: what every way scores, and what the rules make of it."""
    base, _ = opened(family)
    modules = planted(kind, task, family, draw)
    here = Source(base.folder.name, base.folder)
    bench = Workbench(base, modules, here, ())
    template = Template(task.template)
    made = BenchTask(
        name=task.key,
        digest="",
        pool=tuple(Example(each.input, each.target) for each in task.pool),
        test=tuple(Example(each.input, each.target) for each in task.test[:test]),
    )
    rules = Protocol(modules=len(modules), ranked=len(modules), batch=120)
    (readable,), _ = as_read([made], base, template, rules)
    assert isinstance(readable, Readable)
    drawn = Draw(bench, readable, template, rules, draw)
    asking = comparator.Asking(
        Objective.of(base, modules, drawn.examples, template, recommended()),
        drawn.examples,
        template,
    )
    rival = comparator.choose(asking, seed=draw).key
    rows = [row(drawn, method, key) for method, key in WAYS.items()]
    found = verdict({"methods": rows, "comparator": {"key": rival}})
    assert found is not None
    return {
        "kind": kind, "task": task.key, "draw": draw, "says": found.kind, "rival": rival,
        "sentence": found.sentence, "scores": {each["key"]: each["correct"] for each in rows},
        "test": len(readable.test),
    }  # fmt: skip


def row(drawn: Draw, method: str, key: str) -> dict[str, Any]:
    answered = METHODS[method].answer(drawn)
    total = len(drawn.readable.test)
    scores = [
        sum(hits[place] == "1" for hits in answered.hits) / len(answered.hits)
        for place in range(total)
    ]
    interval = wilson(round(sum(scores)), total)
    found = {
        "key": key, "correct": sum(scores), "total": total, "low": interval.low,
        "high": interval.high, "detail": str(answered.detail.get("module", "")), "tokens": 6.0,
    }  # fmt: skip
    if len(answered.hits) == 1:
        return {**found, "hits": answered.hits[0]}
    return {**found, "scores": scores}


def kept() -> list[dict[str, Any]]:
    if not RAW.exists():
        return []
    return [json.loads(line) for line in RAW.read_text(encoding="utf-8").splitlines()]


def report(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| library | draws | correct | “use it” | what was said |",
        "|---|---:|---:|---:|---|",
    ]
    for kind, correct in CORRECT.items():
        found = [row["says"] for row in rows if row["kind"] == kind]
        if not found:
            continue
        counts = {each: found.count(each) for each in sorted(set(found))}
        right = sum(count for each, count in counts.items() if each in correct)
        told = ", ".join(f"{each} {count}" for each, count in counts.items())
        lines.append(
            f"| {kind} | {len(found)} | {100 * right / len(found):.0f}% | "
            f"{100 * counts.get('use', 0) / len(found):.0f}% | {told} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", choices=list(library.BASES), default="t5")
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--test", type=int, default=240)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    RAW.parent.mkdir(exist_ok=True)
    every = library.tasks(base=library.BASES[given.base])
    known = {(row["base"], row["kind"], row["task"], row["draw"]) for row in kept()}
    tasks = chosen(every)
    jobs = [
        (kind, tasks[draw % len(tasks)], draw) for draw in range(given.draws) for kind in CORRECT
    ]
    for kind, task, draw in tqdm(jobs, unit="draw", mininterval=5):
        if (given.base, kind, task.key, draw) in known:
            continue
        found = said(kind, task, draw, given.base, given.test)
        with RAW.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"base": given.base, **found}) + "\n")
    print(report([row for row in kept() if row["base"] == given.base]))


if __name__ == "__main__":
    main()

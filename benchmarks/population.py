"""A whole population in one forward, against the obvious loop over its candidates.

    python -m benchmarks.population [--rounds 15] [--threads 1 2]

The loop does what LoraHub's released code does for each candidate: add up the modules' state dicts
key by key, put the sum into a PEFT model with set_peft_model_state_dict, one forward. Both read the
demo library's base model and 20 modules, and the same five examples. They run in turns, so that
whatever else the machine does falls on both; medians over the rounds. The losses of `lorahub` must
be the loop's own.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file

from composer.demo import library, skills
from composer.engine import base_model, stack
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.base_model import BaseModel
from composer.engine.batch import Batch, encode
from composer.engine.config import SearchConfig
from composer.engine.examples import Example
from composer.engine.objective import Objective
from composer.engine.prompt import Template

EXAMPLES = 5
Array = np.ndarray


class Loop:
    """One candidate after the other, in a PEFT model."""

    def __init__(self, base: BaseModel, batch: Batch) -> None:
        folders = library.T5.module_folders()
        model = type(base.model).from_pretrained(base.folder)
        self.model = PeftModel.from_pretrained(model, folders[0]).eval()
        self.modules = [load_file(folder / WEIGHTS_NAME) for folder in folders]
        self.inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
        }
        self.forward = 0.0

    def losses(self, weights: Array) -> Array:
        """The mean cross-entropy of each candidate; `forward` adds up the time in the model."""
        found = []
        for row in weights.tolist():
            mixed: dict[str, torch.Tensor] = {}
            for place, (weight, module) in enumerate(zip(row, self.modules, strict=True)):
                for key in module:
                    part = weight * module[key]
                    mixed[key] = part if place == 0 else mixed[key] + part
            set_peft_model_state_dict(self.model, mixed)
            start = time.perf_counter()
            with torch.no_grad():
                found.append(float(self.model(**self.inputs).loss))
            self.forward += time.perf_counter() - start
        return np.array(found)


def timed(call: Callable[[Array], Array], weights: Array) -> tuple[float, Array]:
    start = time.perf_counter()
    found = call(weights)
    return time.perf_counter() - start, found


def measure(threads: int, rounds: int) -> list[str]:
    torch.set_num_threads(threads)
    base = base_model.load(library.T5.folder())
    modules = stack.load(library.T5.module_folders(), base)
    task = next(task for task in library.tasks() if task.role == "report")
    rng = skills.generator("population", task.key)
    examples = [Example(item.input, item.target) for item in rng.sample(task.pool, EXAMPLES)]
    batch = encode(examples, Template(task.template), base.tokenizer)
    loop = Loop(base, batch)
    ways: dict[str, Callable[[Array], Array]] = {
        "loop": loop.losses,
        **{
            name: Objective(base, modules, batch, SearchConfig(combination=name)).task_loss
            for name in ("lorahub", "sum")
        },
    }
    P = 4 + math.floor(3 * math.log(len(modules)))
    draw = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    in_model, furthest = [], 0.0
    for turn in range(rounds + 1):
        weights = draw.normal(0, 0.3, (P, len(modules)))
        loop.forward, losses = 0.0, {}
        for name, way in ways.items():
            spent, losses[name] = timed(way, weights)
            if turn:  # the first one only warms up
                seconds[name].append(spent / P)
        in_model += [loop.forward / P] if turn else []
        furthest = max(furthest, float(abs(losses["loop"] - losses["lorahub"]).max()))
    medians = {name: statistics.median(each) * 1000 for name, each in seconds.items()}
    forward = statistics.median(in_model) * 1000
    loop_ms, loop_name = medians["loop"], f"loop, of which forward alone {forward:.2f}"
    rows = [f"| {threads} | {loop_name} | {loop_ms:.2f} | 1 | – |"]
    for name, check in (("lorahub", f"{furthest:.0e}"), ("sum", "–")):
        ms = medians[name]
        rows.append(
            f"| {threads} | population, `{name}` | {ms:.2f} | {loop_ms / ms:.1f} | {check} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    before = os.getloadavg()[0]
    rows = [row for threads in options.threads for row in measure(threads, options.rounds)]
    print("| threads | way | ms a candidate | times faster | largest difference of a loss |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    modules, after = len(library.T5.module_folders()), os.getloadavg()[0]
    print(
        f"\nBase of the demo, {modules} modules, {EXAMPLES} examples; load of the machine's "
        f"{os.cpu_count()} cores {before:.1f} before and {after:.1f} after."
    )


if __name__ == "__main__":
    main()

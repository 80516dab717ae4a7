"""Start, step size and bound of the recommended search, chosen on the demo's tuning tasks only.

    python -m benchmarks.demo_tuning [--base t5|llama|all] [--draws 5] [--test 120]

Prints one table a base model: the mean exact match over the tuning tasks for each combination and
setting.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from dataclasses import replace

import torch
from tqdm import tqdm

from benchmarks.demo_results import Bench
from composer.demo import library
from composer.demo.library import DemoBase
from composer.engine import base_model, stack
from composer.engine.config import SearchConfig, recommended, with_combination

X0 = (0.0, 0.1, 0.2)
SIGMA = (0.1, 0.2, 0.3, 0.5)


def settings() -> list[SearchConfig]:
    grid = itertools.product(("sum", "lorahub"), X0, SIGMA)
    return [
        replace(with_combination(recommended(), combination), x0=x0, sigma=sigma)
        for combination, x0, sigma in grid
        if combination == "sum" or x0 > 0
    ]


def tune(of: DemoBase, draws: int, test: int) -> None:
    base = base_model.load(of.folder())
    modules = stack.load(of.module_folders(), base)
    tasks = [task for task in library.tasks(base=of) if task.role == "tuning"]
    benches = [Bench(base, modules, task, test) for task in tasks]
    print(f"{of.name}\n")
    print("| combination | x0 | σ | " + " | ".join(task.key for task in tasks) + " | mean |")
    print("|---|---:|---:|" + "---:|" * (len(tasks) + 1))
    for config in tqdm(settings(), unit="setting"):
        means = [
            statistics.fmean(
                bench.searched(modules, bench.examples(draw), replace(config, seed=draw))
                for draw in range(draws)
            )
            for bench in benches
        ]
        cells = [f"{100 * value:.0f}" for value in (*means, statistics.fmean(means))]
        name = f"`{config.combination}` | {config.x0:g} | {config.sigma:g}"
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tune the recommended preset.")
    parser.add_argument("--base", choices=[*library.BASES, "all"], default="all")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--test", type=int, default=120)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for of in library.chosen(options.base):
        tune(of, options.draws, options.test)


if __name__ == "__main__":
    main()

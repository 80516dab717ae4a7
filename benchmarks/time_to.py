"""How long until a search is as good as the released code's is after its 40 evaluations.

    python -m benchmarks.time_to [--base t5|llama] [--draws 3]

The demo's tuning mixtures and phrases, five examples, 20 modules, one thread. *Released* is what
LoraHub's code does, written anew from its description: a candidate is mixed key by key and put into
a PEFT model for one forward; `lorahub` from w = 0, |w| <= 1.5, penalty 0.05, 40 evaluations by
Cobyla, which nevergrad chooses at this budget, with a first step of a sixth of the bounds' width,
which is nevergrad's unit. *Ours* is the recommended preset. What is compared is the task loss
alone, the cross-entropy on the five examples: seconds until ours is no higher than where the
released one ended. Loading is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from dataclasses import replace

import numpy as np
import torch

from benchmarks.engine_ways import Published
from benchmarks.few_shot import FewShot, bench
from composer.demo import library
from composer.engine.config import SearchConfig, as_in_the_paper, recommended
from composer.engine.search import search

KINDS = ("mixture", "phrase")


class Released:
    """The published arithmetic as an objective: cross-entropy, and the penalty of the config."""

    def __init__(self, way: Published, config: SearchConfig) -> None:
        self.way, self.config = way, config

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        penalty: np.ndarray = self.config.penalty * np.abs(weights).sum(axis=1)
        return self.way.losses(weights) + penalty


def released(few: FewShot, way: Published, sigma: float) -> tuple[float, float]:
    """Seconds of the search, and the task loss where it ended."""
    config = replace(as_in_the_paper(), optimiser="cobyla", sigma=sigma)
    start = time.perf_counter()
    *_, last = search(Released(way, config), len(few.modules), config)
    spent = time.perf_counter() - start
    return spent, float(way.losses(last.best_weights[None])[0])


def ours(few: FewShot, draw: int, aim: float) -> tuple[float, int]:
    """Seconds and evaluations until the task loss is no higher than `aim`; infinite where never.

    A generation counts as a whole. Its task losses are its losses without the penalty.
    """
    config = replace(recommended(seed=draw), population=4)
    objective = few.objective(draw, config, few.modules)
    start = time.perf_counter()
    for generation in search(objective, len(few.modules), config):
        if (generation.losses - objective.penalty(generation.weights)).min() <= aim:
            return time.perf_counter() - start, generation.evaluations
    return float("inf"), config.budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--base", choices=list(library.BASES), default="t5")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sigma", type=float, default=0.5, help="the released search's first step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    of = library.BASES[options.base]
    ratios = []
    print("| task | draw | released, s | its loss | ours, s | evaluations | times faster |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for task in library.tasks(base=of):
        if task.role != "tuning" or task.kind not in KINDS:
            continue
        few = bench(options.base, task.key, 5, 20)
        for draw in range(options.draws):
            way = Published(few.base, of.module_folders(), few.encode(few.examples(draw)))
            spent, aim = released(few, way, options.sigma)
            seconds, evaluations = ours(few, draw, aim)
            ratios.append(spent / seconds)
            cells = [
                task.name, str(draw), f"{spent:.2f}", f"{aim:.3f}", f"{seconds:.2f}",
                str(evaluations), f"{ratios[-1]:.1f}",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nMedian {statistics.median(ratios):.1f}, from {min(ratios):.1f} to {max(ratios):.1f}.")


if __name__ == "__main__":
    main()

"""The best of many modules: one after the other as published code would, and by the engine.

    python -m benchmarks.screening [--shapes flan-t5-small ...] [--modules 200] [--rounds 3]
    python -m benchmarks.screening --demo

Shapes, examples and adapters are those of benchmarks/engine.py, but the modules' scalings lie
between 1 and 64, so that they differ in what they do. A way takes turns with the others:

- *published*: each module's state dict is put into the PEFT model, and one forward over the padded
  batch. Timed on some of the modules; nothing is mixed, and loading is left out.
- *exact*: the engine with everything in float32. Timed on some of the modules.
- *8 bits*: the same with the base model's products in 8 bits, on the same modules.
- *whole*: as `rank --top K` runs it, loading included: all in 8 bits, then the best again
  in float32 until they are known. How many those are depends on how much modules differ beside what
  8 bits are off; those of random models hardly differ (last column), so this is the worst case.

--demo asks instead how far 8 bits are off on trained models, both demo libraries and every task of
them: their layers are narrow, so that 8 bits bring no time there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from benchmarks.engine_models import SHAPES, make_base, make_batch, write_adapters
from benchmarks.engine_ways import Published
from benchmarks.few_shot import bench
from composer.demo import library
from composer.engine import int8
from composer.engine import stack as stacks
from composer.engine.screening import Screening, screen_folders, screen_stack

SOME = 8  # modules that the slow ways are timed on


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def rescaled(folders: list[Path]) -> list[Path]:
    draw = np.random.default_rng(3)
    for folder in folders:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        config["lora_alpha"] = config["r"] * float(2 ** draw.uniform(0, 6))
        path.write_text(json.dumps(config))
    return folders


def shape_row(name: str, lengths: str, N: int, best: int, rounds: int, root: Path) -> str:
    shape = SHAPES[name]
    base = make_base(shape)
    folders = rescaled(write_adapters(base, shape, N, root / name))
    batch = make_batch(shape, base, lengths)
    published = Published(base, folders[:SOME], batch)
    some = stacks.load(folders[: 3 * SOME], base)
    spent: dict[str, list[float]] = {
        "published": [], "exact": [], "8 bits": [], "whole": []
    }  # fmt: skip
    published.losses(np.eye(SOME)[:1])
    screen_stack(base, some, batch)
    for _ in range(rounds):
        taken, _ = seconds(lambda: published.losses(np.eye(SOME)))
        spent["published"].append(taken / SOME)
        taken, exact = seconds(lambda: screen_stack(base, some, batch))
        spent["exact"].append(taken / len(some))
        with int8.in_8_bits(base):
            taken, rough = seconds(lambda: screen_stack(base, some, batch))
        spent["8 bits"].append(taken / len(some))
        taken, found = seconds(lambda: screen_folders(folders, base, batch, best=best))
        spent["whole"].append(taken / N)
    at = {way: statistics.median(each) for way, each in spent.items()}
    off = np.abs(rough.loss() - exact.loss())
    cells = [
        name, lengths, f"{best} of {N}", *(f"{each * 1000:.0f}" for each in at.values()),
        *(f"{at['published'] / at[way]:.2f}" for way in ("exact", "8 bits", "whole")),
        str(found.again), f"{off.mean():.3f}, {exact.loss().std():.3f}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def demo_row(family: str, wanted: int, draws: int) -> str:
    int8.NARROWEST = 0
    torch.cpu._is_vnni_supported = lambda: True  # what is asked is not how fast it is
    off, spread, again, missed, asked = [], [], [], 0, 0
    for task in library.tasks(base=library.BASES[family]):
        few = bench(family, task.key, 5, 20)
        for draw in range(draws):
            batch = few.encode(few.examples(draw))
            exact: Screening = screen_stack(few.base, few.modules, batch)
            with int8.in_8_bits(few.base):
                rough = screen_stack(few.base, few.modules, batch)
            found = screen_stack(few.base, few.modules, batch, best=wanted)
            off.append(float(np.abs(rough.loss() - exact.loss()).mean()))
            spread.append(float(exact.loss().std()))
            again.append(found.again)
            missed += len(set(exact.top(wanted)) - set(found.top(wanted)))
            asked += wanted
    cells = [
        family, str(len(again)), str(len(few.modules)), str(wanted),
        f"{statistics.fmean(off):.4f}", f"{statistics.fmean(spread):.2f}",
        f"{statistics.fmean(again):.1f}", f"{missed} of {asked}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shapes", nargs="+", default=["flan-t5-small"], choices=list(SHAPES))
    parser.add_argument("--modules", type=int, default=200)
    parser.add_argument("--best", type=int, default=20)
    parser.add_argument("--lengths", nargs="+", default=["equal", "ragged"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    if options.demo:
        print("| base | rankings | modules | wanted | 8 bits off by | modules differ by "
              "| measured again | of the best missed |")  # fmt: skip
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for family in library.BASES:
            for wanted in (1, 3, 5):
                print(demo_row(family, wanted, options.draws), flush=True)
        return
    print("| model | lengths | wanted | published, ms a module | exact | 8 bits | whole "
          "| exact, times published | 8 bits | whole | measured again "
          "| 8 bits off by, modules differ by |")  # fmt: skip
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.shapes:
            for lengths in options.lengths:
                row = shape_row(
                    name, lengths, options.modules, options.best, options.rounds, Path(scratch)
                )
                print(row, flush=True)
    print(f"\n{options.threads} threads; load {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()

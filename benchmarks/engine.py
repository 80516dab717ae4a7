"""The engine beside the published arithmetic and PEFT, on models of known shapes.

    python -m benchmarks.engine [--quick] [--shapes flan-t5-small ...] [--modules 20 100 200]

Five examples of 128 tokens, or of 24 to 128 (ragged); adapters of rank 16 on the query and value
projections; models from their config with random weights, float32 on both sides. The ways take
turns, so that whatever else the machine does falls on all of them; medians over the rounds.
Populations are of 4 + 3 ln N candidates as CMA-ES has them, of 8 from 100M parameters, of 4 from
400M.

- *published*: what LoraHub's released code does, written anew from its description.
- *PEFT `linear`*: add_weighted_adapter for each candidate. Run with 20 modules only, because
  loading hundreds of adapters into one PEFT model takes minutes.
- *ours*: `lorahub` is the published formula, `sum` the exact one. A population is measured at once,
  as CMA-ES asks for it; "one at a time" is a single candidate, as Cobyla asks for it.

load is of all modules with the files in the page cache; *published* is that of three modules times
N / 3, and *files* a plain load_file of each. combine is what mixing takes a candidate. peak is the
largest resident memory of a process that does nothing else, base model and libraries included.
share of the machine is the matrix products that a way computes in a second, over those of one large
float32 product.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging as transformers_logging

from benchmarks.engine_models import (
    SHAPES,
    Shape,
    make_base,
    make_batch,
    sizes,
    write_adapters,
)
from benchmarks.engine_ways import Way, make_way
from composer.engine.adapter_file import WEIGHTS_NAME
from composer.engine.memory import free_ram

WAYS = ("published", "peft", "lorahub", "sum", "alone")
POPULATIONS = ("lorahub", "sum")
# Parameters up to which a population is CMA-ES's own; then it is of 8, and of 4 for large models.
SMALL, LARGE = 100_000_000, 400_000_000
HEADER = (
    "| model | lengths | N | way | evaluations/s | times published | load, s | combine, ms "
    "| peak, GB | share of the machine |"
)


@dataclass(frozen=True)
class Case:
    shape: Shape
    lengths: str
    N: int
    ways: tuple[str, ...]


def machine_rate() -> float:
    """Multiply-adds a second of one large product, the best of some."""
    x, w = torch.randn(1280, 2048), torch.randn(2048, 2048)
    spent = [seconds(lambda: x @ w) for _ in range(8)]
    return 2.0 * x.shape[0] * w.numel() / min(spent)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def products(call: Callable[[], Any]) -> float:
    """What a call computes in matrix products, twice the multiply-adds."""

    def linear(x: Any, w: Any, third: Any = None, *_: Any, **__: Any) -> int:
        weight = w if third is None else third  # with another tensor to add or multiply by
        return 2 * int(np.prod(x)) * int(weight[0])

    def added(y: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
        return 2 * int(np.prod(a)) * int(b[-1])

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return 4 * int(np.prod(q)) * int(k[-2])

    ops = torch.ops
    custom = {
        ops.mkldnn._linear_pointwise: linear,
        ops.aten.addmm_: added,
        ops.aten.baddbmm_: added,
        ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    }
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        call()
    return float(counter.get_total_flops())


def measure(case: Case, root: Path, rounds: int, rate: float, memory: bool) -> list[str]:
    base = make_base(case.shape)
    folders = write_adapters(base, case.shape, case.N, root / case.shape.name)
    batch = make_batch(case.shape, base, case.lengths)
    files = statistics.median(seconds(lambda: read(folders)) for _ in range(2))
    parameters = sum(p.numel() for p in base.model.parameters())
    ways = {name: make_way(name, base, folders, batch) for name in case.ways}
    P = 4 + int(3 * np.log(case.N)) if parameters < SMALL else 8 if parameters < LARGE else 4
    draw = np.random.default_rng(0)
    spent: dict[str, list[float]] = {name: [] for name in ways}
    combine: dict[str, list[float]] = {name: [] for name in ways}
    furthest = 0.0
    for turn in range(rounds + 1):
        weights = draw.uniform(0, 0.5, (P if turn else 1, case.N))
        losses = {}
        for name, way in ways.items():
            some = weights if name in POPULATIONS else weights[:1]
            start = time.perf_counter()
            losses[name] = way.losses(some)
            if turn:  # the first one only warms up
                spent[name].append((time.perf_counter() - start) / len(some))
                combine[name].append(way.combine)
        furthest = max(furthest, abs(float(losses["published"][0] - losses["lorahub"][0])))
    ms = {name: statistics.median(each) for name, each in spent.items()}
    rows = []
    for name, way in ways.items():
        some = weights if name in POPULATIONS else weights[:1]
        flops = products(lambda way=way, some=some: way.losses(some)) / len(some)
        cells = [
            case.shape.name, case.lengths, str(case.N), way.name, f"{1 / ms[name]:.3g}",
            f"{ms['published'] / ms[name]:.2f}", f"{loading(way, folders, base, batch):.2f}",
            f"{statistics.median(combine[name]) * 1000:.1f}",
            f"{peak(name, case, root):.2f}" if memory else "–",
            f"{100 * flops / ms[name] / rate:.0f}%",
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    rows.append(
        f"| | | | *files* | | | {files:.2f} | | | largest difference of `lorahub`'s loss to the "
        f"published one {furthest:.0e} |"
    )
    return rows


def read(folders: Sequence[Path]) -> None:
    for folder in folders:
        load_file(folder / WEIGHTS_NAME)


def loading(way: Way, folders: Sequence[Path], base: Any, batch: Any) -> float:
    """Ours again, because the first one may have found cold pages."""
    if not way.name.startswith("ours"):
        return way.load
    again = [make_way("lorahub", base, folders, batch).load for _ in range(3)]
    return statistics.median(again)


def peak(name: str, case: Case, root: Path) -> float:
    """GB of a process of its own."""
    command = [
        sys.executable, "-m", "benchmarks.engine", "--peak-of", name, "--shapes", case.shape.name,
        "--modules", str(case.N), "--lengths", case.lengths, "--root", str(root),
        "--threads", str(torch.get_num_threads()),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1]) / 1e6


def peak_of(name: str, case: Case, root: Path) -> None:
    """Prints kB: the largest resident memory from when the base model is there."""
    base = make_base(case.shape)
    folders = write_adapters(base, case.shape, case.N, root / case.shape.name)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    way = make_way(name, base, folders, make_batch(case.shape, base, case.lengths))
    P = 12 if name in POPULATIONS else 1
    way.losses(np.full((P, case.N), 0.1))
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def cases(options: argparse.Namespace) -> list[Case]:
    found = []
    for name in options.shapes:
        for N in options.modules:
            lengths = options.lengths if min(options.modules) == N else ["equal"]
            ways = WAYS if N <= 20 else tuple(way for way in WAYS if way != "peft")
            found += [Case(SHAPES[name], each, N, ways) for each in lengths]
    return found


def too_large(case: Case, root: Path) -> str | None:
    """Why a case cannot be run here: memory for the model and three arrangements of the modules."""
    model, adapter = sizes(case.shape)
    need = 3e9 + model + 3.5 * case.N * adapter
    if need > free_ram():
        return f"needs {need / 1e9:.0f} GB of memory, {free_ram() / 1e9:.0f} GB are free"
    if case.N * adapter > shutil.disk_usage(root).free - 2e9:
        return f"needs {case.N * adapter / 1e9:.0f} GB of disk"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--modules", type=int, nargs="+", default=[20, 100, 200])
    parser.add_argument("--lengths", nargs="+", default=["equal", "ragged"])
    parser.add_argument("--rounds", type=int, help="default: 4, for large models 2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="20 modules, no memory")
    parser.add_argument("--root", type=Path, help="where adapters are written and kept")
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.modules = [20]
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    if options.peak_of:
        peak_of(options.peak_of, cases(options)[0], options.root)
        return
    before, start = os.getloadavg()[0], time.perf_counter()
    rate = machine_rate()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.root or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        print(HEADER, "|---|---|---:|---|---:|---:|---:|---:|---:|---:|", sep="\n", flush=True)
        for case in cases(options):
            why = too_large(case, root)
            if why:
                print(f"| {case.shape.name} | {case.lengths} | {case.N} | not run: {why} "
                      "| | | | | | |", flush=True)  # fmt: skip
                continue
            large = case.shape.name in ("flan-t5-large", "qwen2-494m")
            rounds = options.rounds or (2 if large else 4)
            if case.N > 20:
                rounds = max(1, rounds // 2)
            memory = not options.quick and case.N == 20 and case.lengths == "equal"
            print("\n".join(measure(case, root, rounds, rate, memory)), flush=True)
    print("| 7–8B, and anything on a GPU | | | not measured: no GPU | | | | | | |")
    print(
        f"\n{options.threads} threads; one large product reaches {rate / 1e9:.0f} GFLOP/s; load of "
        f"the machine's {os.cpu_count()} cores {before:.1f} before and {os.getloadavg()[0]:.1f} "
        f"after; {(time.perf_counter() - start) / 60:.0f} minutes."
    )


if __name__ == "__main__":
    main()

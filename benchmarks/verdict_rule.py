"""How often the verdict's rule is wrong, and how often it cannot tell, where the truth is known.

    python -m benchmarks.verdict_rule [--trials 10000]

First the primary comparison alone: paired outcomes of two methods on n examples, with a true
difference of 0 to 30 points, in several ways to be right together. Then the whole sentence: six
rivals that are all exactly as good as the composition, or worse by so many points, their comparator
chosen by what they scored on 20 training examples. Nothing here runs a model. Writes the table and
docs/verdict.svg, which docs/verdict.md shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pygal
from numpy.typing import NDArray
from pygal.style import Style

from composer.engine.compare import BETTER, EQUIVALENT, UNSURE, WORSE, of_counts
from composer.verdict import RIVALS, verdict

ROOT = Path(__file__).parent.parent
DOCS, PLOT = ROOT / "docs" / "verdict.md", ROOT / "docs" / "verdict.svg"
START, END = "<!-- calibration: start -->", "<!-- calibration: end -->"
SIZES = (5, 10, 20, 30, 50, 100, 200)
POINTS = (-10, 0, 5, 10, 15, 20, 30)
RIGHT = (0.4, 0.6)  # what the better of two gets right
TOGETHER = (0.0, 0.5, 0.8)  # correlation of the latent scores of two methods on one example
OUTCOMES = (BETTER, EQUIVALENT, WORSE, UNSURE)
TRAINING = 20

judged = lru_cache(maxsize=None)(lambda won, lost, n: of_counts(won, lost, n).outcome)


def latent(
    shares: Sequence[float], rho: float, size: tuple[int, int], generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Who is right on what, (trials, methods, n): each example has a difficulty of its own that all
    methods share, as far as rho says."""
    trials, n = size
    common = generator.standard_normal((trials, 1, n), dtype=np.float32)
    own = generator.standard_normal((trials, len(shares), n), dtype=np.float32)
    limits = np.array([NormalDist().inv_cdf(min(max(p, 1e-9), 1 - 1e-9)) for p in shares])
    scores = np.sqrt(rho) * common + np.sqrt(1 - rho) * own
    return scores < limits[None, :, None].astype(np.float32)


def primary(trials: int, generator: np.random.Generator) -> dict[tuple[int, int], dict[str, float]]:
    """(n, points) -> the share of each outcome, the mean over RIGHT and TOGETHER; and under "wrong"
    the largest share of `better` in any of them."""
    found = {}
    for n in SIZES:
        for points in POINTS:
            shares = []
            for p in RIGHT:
                for rho in TOGETHER:
                    right = latent([p, p - points / 100], rho, (trials, n), generator)
                    won = (right[:, 0] & ~right[:, 1]).sum(axis=1)
                    lost = (right[:, 1] & ~right[:, 0]).sum(axis=1)
                    said = [judged(int(a), int(b), n) for a, b in zip(won, lost, strict=True)]
                    shares.append({each: said.count(each) / trials for each in OUTCOMES})
            found[n, points] = {
                each: float(np.mean([row[each] for row in shares])) for each in OUTCOMES
            } | {"most": max(row[BETTER] for row in shares)}
    return found


def sentences(
    trials: int, points: int, n: int, rho: float, generator: np.random.Generator
) -> dict[str, float]:
    """How often the whole rule says what: the composition against six rivals, all of them so many
    points worse."""
    shares = [0.6, *[0.6 - points / 100] * len(RIVALS)]
    tested = latent(shares, rho, (trials, n), generator)
    trained = latent(shares, rho, (trials, TRAINING), generator)
    said: dict[str, int] = {}
    for hits, seen in zip(tested, trained, strict=True):
        chosen = RIVALS[int(seen[1:].sum(axis=1).argmax())]
        rows = [
            {"key": key, "correct": int(row.sum()), "total": n, "low": 0.0, "high": 1.0,
             "hits": "".join("01"[int(each)] for each in row)}
            for key, row in zip(("composed", *RIVALS), hits, strict=True)
        ]  # fmt: skip
        found = verdict({"methods": rows, "comparator": {"key": chosen}})
        assert found is not None
        said[found.kind] = said.get(found.kind, 0) + 1
    return {kind: count / trials for kind, count in said.items()}


def table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---:|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def plot(found: dict[tuple[int, int], dict[str, float]]) -> None:
    chart = pygal.XY(
        width=760, height=360, style=Style(background="#ffffff", plot_background="#ffffff"),
        x_title="true difference in points", y_title="“better”, in % of the trials",
        title="How often the primary comparison says “better”", legend_at_bottom=True,
        range=(0, 100), dots_size=2, js=(),
    )  # fmt: skip
    for n in (30, 50, 100, 200):
        chart.add(f"{n} examples", [(each, 100 * found[n, each][BETTER]) for each in POINTS])
    chart.render_to_file(str(PLOT))


def report(trials: int) -> str:
    generator = np.random.Generator(np.random.PCG64(7))
    found = primary(trials, generator)
    plot(found)
    outcomes = [
        [str(n), str(points), *(percent(found[n, points][each]) for each in OUTCOMES),
         percent(found[n, points]["most"])]
        for n in SIZES for points in POINTS
    ]  # fmt: skip
    kinds = ("use", "single", "average", "nothing", "train", "in_context", "unsure")
    whole = []
    for n in (10, 30, 50, 100, 200):
        for points in (0, 10, 20, 30):
            for rho in (0.5, 0.8):
                said = sentences(trials, points, n, rho, generator)
                whole.append(
                    [
                        str(n),
                        str(points),
                        f"{rho:g}",
                        *(percent(said.get(each, 0)) for each in kinds),
                    ]
                )
    return "\n\n".join(
        [
            f"{trials:,} trials each, in per cent; *most* is the largest share of *better* "
            f"in any of the {len(RIGHT) * len(TOGETHER)} ways to be right together.",
            table(outcomes, ["examples", "true points", *OUTCOMES, "most"]),
            "The whole sentence, with six rivals that are all exactly so many points worse than "
            "the composition (at 0, every “use it” is wrong):",
            table(whole, ["examples", "true points", "correlation", *kinds]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibrate the verdict's rule by simulation.")
    parser.add_argument("--trials", type=int, default=10_000)
    text = report(parser.parse_args().trials)
    print(text)
    if DOCS.exists():
        before, rest = DOCS.read_text(encoding="utf-8").split(START)
        DOCS.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()

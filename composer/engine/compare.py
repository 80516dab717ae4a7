"""Is one method better than another on the same examples? Intervals, tests, and four outcomes.

Each example has a value for each method: 1 or 0 for right and wrong, or a score between. Methods
are compared in pairs, example by example. No torch, no scipy: pages read these too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = Sequence[float] | Array

MARGIN = 0.05  # a smaller difference does not matter
LEVEL = 0.05  # of each test
FEWEST = 30  # examples that a difference in right answers is judged on
POWER = 0.8  # with which "how many would do" is computed
DRAWS = 10_000
BETTER, WORSE, EQUIVALENT, UNSURE = "better", "worse", "equivalent", "unsure"


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The first method's mean minus the second's, with n examples.

    low, high  its 1 - 2·LEVEL interval: each end is a one-sided test at LEVEL
    p          of "no difference", two-sided
    won, lost  examples where the first is better, and where the second is
    """

    mean: float
    low: float
    high: float
    p: float
    won: int
    lost: int
    n: int

    @property
    def outcome(self) -> str:
        """`equivalent` where both ends lie within MARGIN, whichever side of zero; then `better` or
        `worse` where the difference is no chance; else, and with few examples, `unsure`."""
        if self.n < FEWEST:
            return UNSURE
        if self.rules_out_gain and self.rules_out_loss:
            return EQUIVALENT
        if self.p < LEVEL and self.mean:
            return BETTER if self.mean > 0 else WORSE
        return UNSURE

    @property
    def points(self) -> str:
        """In words: "+14 (5 to 23)"."""
        mean, low, high = (round(100 * each) + 0 for each in (self.mean, self.low, self.high))
        return f"{mean:+d} ({low:d} to {high:d})".replace("-", "\N{MINUS SIGN}")

    @property
    def rules_out_gain(self) -> bool:
        """The first is at most MARGIN better: to take the second loses nothing that counts."""
        return self.n >= FEWEST and self.high < MARGIN

    @property
    def rules_out_loss(self) -> bool:
        """The first is at most MARGIN worse."""
        return self.n >= FEWEST and self.low > -MARGIN


def difference(first: Values, second: Values, *, seed: int = 0) -> Difference:
    """Right answers by McNemar's exact test and Bonett and Price's interval; scores from 0 to 1 by
    permutation and bootstrap."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"values of shapes {a.shape} and {b.shape}; both must be (n,)")
    gaps = a - b
    won, lost, n = int((gaps > 0).sum()), int((gaps < 0).sum()), len(gaps)
    if n == 0 or (_are_counts(a) and _are_counts(b)):
        return of_counts(won, lost, n)
    found = bootstrap(gaps, confidence=1 - 2 * LEVEL, seed=seed)
    p = permutation(gaps, seed=seed)
    # Of one example a bootstrap knows nothing, and its ends are infinite.
    low, high = max(-1.0, found.low), min(1.0, found.high)
    return Difference(float(gaps.mean()), low, high, p, won, lost, n)


def of_counts(won: int, lost: int, n: int) -> Difference:
    """The same from how many of n examples only the first got right, and only the second."""
    if n == 0:
        return Difference(0.0, -1.0, 1.0, 1.0, 0, 0, 0)
    found = paired_interval(won, lost, n)
    return Difference((won - lost) / n, found.low, found.high, mcnemar(won, lost), won, lost, n)


def _are_counts(values: Array) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def interval(values: Values, *, seed: int = 0) -> Interval:
    """Of a mean over examples, 95%: Wilson's of right answers, a bootstrap's of other scores, cut
    to 0 … 1."""
    found = np.asarray(values, dtype=np.float64)
    if _are_counts(found):
        return wilson(int(found.sum()), len(found))
    drawn = bootstrap(found, seed=seed)
    return Interval(max(0.0, drawn.low), min(1.0, drawn.high))


# --- right or wrong ----------------------------------------------------------------------------


def wilson(correct: int, n: int, confidence: float = 0.95) -> Interval:
    """Of a share: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)   (Wilson 1927)"""
    if n == 0:
        return Interval(0.0, 1.0)
    z, p = _z(confidence), correct / n
    middle = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    # At 0 and at n correct the formula gives 0 and 1 but for rounding.
    return Interval(0.0 if correct == 0 else low, 1.0 if correct == n else high)


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p: among the examples that only one got right, a coin decides whose."""
    trials = won + lost
    tail = sum(math.comb(trials, k) for k in range(max(won, lost), trials + 1))
    return min(1.0, float(2 * tail / 2**trials))


def paired_interval(won: int, lost: int, n: int, confidence: float = 1 - 2 * LEVEL) -> Interval:
    """Of a difference of shares, from pairs. One is added to both counts and two to n, so that no
    disagreement in few examples is not taken for certainty (Bonett and Price 2012)."""
    a, b = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    spread = _z(confidence) * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    return Interval(max(-1.0, a - b - spread), min(1.0, a - b + spread))


def wanted(won: int, lost: int, n: int) -> int | None:
    """How many examples would tell such a difference from chance, with POWER (Connor 1987); None
    where no number would, because there is none.

    ψ = share of examples on which the methods differ, δ = difference:
    (z_(1-α/2) √ψ + z_power √(ψ - δ²))² / δ²
    """
    if n == 0 or won == lost:
        return None
    psi, delta = (won + lost) / n, (won - lost) / n
    z, power = _z(1 - LEVEL), NormalDist().inv_cdf(POWER)
    root = z * math.sqrt(psi) + power * math.sqrt(max(0.0, psi - delta * delta))
    return max(FEWEST, math.ceil(root * root / (delta * delta)))


# --- scores between ----------------------------------------------------------------------------


def permutation(gaps: Values, *, seed: int = 0, draws: int = DRAWS) -> float:
    """Two-sided p of a mean of paired gaps: under "no difference" each sign is a coin's. The
    observed signs count as one draw, so p is never 0 (Phipson and Smyth 2010)."""
    found = np.asarray(gaps, dtype=np.float64)
    if not found.any():
        return 1.0
    generator = np.random.Generator(np.random.PCG64(seed))
    observed, as_far = abs(found.sum()), 0
    for size in _parts(draws, len(found)):
        signs = generator.integers(0, 2, size=(size, len(found)), dtype=np.int8) * 2 - 1
        as_far += int((np.abs(signs @ found) >= observed * (1 - 1e-12)).sum())
    return (as_far + 1) / (draws + 1)


def bootstrap(
    values: Values,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    draws: int = DRAWS,
    statistic: Callable[[NDArray[np.int64]], Array] | None = None,
) -> Interval:
    """Of a mean over examples: bias-corrected and accelerated (Efron 1987).

    statistic: (draws, n) numbers of examples -> (draws,), for what is no mean of values.
    """
    found = np.asarray(values, dtype=np.float64)
    n = len(found)
    if n < 2:
        return Interval(-math.inf, math.inf)
    measure = statistic or (lambda rows: found[rows].mean(axis=1))
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = np.concatenate(
        [measure(generator.integers(0, n, size=(size, n))) for size in _parts(draws, n)]
    )
    everything = np.arange(n)
    observed = float(measure(everything[None])[0])
    left_out = measure(np.stack([np.delete(everything, each) for each in everything]))
    if np.ptp(drawn) == 0:
        return Interval(observed, observed)
    normal = NormalDist()
    below = ((drawn < observed).sum() + (drawn == observed).sum() / 2) / draws
    bias = normal.inv_cdf(min(max(below, 1 / draws), 1 - 1 / draws))
    away = left_out.mean() - left_out
    spread = float((away**2).sum())
    lean = float((away**3).sum()) / (6 * spread**1.5) if spread else 0.0

    def place(tail: float) -> float:
        z = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + z / (1 - lean * z))

    ends = np.quantile(drawn, [place((1 - confidence) / 2), place((1 + confidence) / 2)])
    return Interval(float(ends[0]), float(ends[1]))


def hierarchical(table: Sequence[Values], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Of a mean over draws of few-shot examples and over the test examples of each: draws are drawn
    anew with all of theirs, then examples within them (Davison and Hinkley 1997, section 3.8)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    rows = [np.asarray(each, dtype=np.float64) for each in table]
    chosen = generator.integers(0, len(rows), size=(DRAWS, len(rows)))
    means = np.empty(chosen.shape)
    for place, row in enumerate(rows):
        times = chosen == place
        n = len(row)
        means[times] = np.concatenate(
            [
                row[generator.integers(0, n, size=(size, n))].mean(axis=1)
                for size in _parts(int(times.sum()), n)
            ]
            or [np.empty(0)]
        )
    low, high = np.quantile(means.mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _parts(draws: int, n: int) -> list[int]:
    """So many draws at a time that 32 MB hold them."""
    size = max(1, min(draws, 4_000_000 // max(1, n)))
    return [size] * (draws // size) + ([draws % size] if draws % size else [])

"""Intervals and tests against what they are defined by, and against the tables of their papers."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipy_bootstrap

from composer.engine.compare import (
    BETTER,
    EQUIVALENT,
    FEWEST,
    UNSURE,
    WORSE,
    bootstrap,
    difference,
    hierarchical,
    mcnemar,
    of_counts,
    paired_interval,
    permutation,
    wanted,
    wilson,
)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (5, 1), (10, 3), (3, 10), (40, 40)])
def test_mcnemar_is_the_binomial_test_of_the_disagreements(won: int, lost: int) -> None:
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected)


def test_wilson_is_scipys() -> None:
    for correct, n in [(0, 10), (7, 10), (10, 10), (57, 200)]:
        found = binomtest(correct, n).proportion_ci(method="wilson")
        assert (wilson(correct, n).low, wilson(correct, n).high) == pytest.approx(
            (found.low, found.high), abs=1e-9
        )
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_the_paired_interval_is_bonett_and_prices() -> None:
    """a = (won + 1)/(n + 2), b = (lost + 1)/(n + 2), z √((a + b - (a - b)²)/(n + 2)), by hand."""
    found = paired_interval(14, 4, 98, 0.95)
    a, b = 15 / 100, 5 / 100
    spread = 1.959963984540054 * math.sqrt((a + b - (a - b) ** 2) / 100)
    assert (found.low, found.high) == pytest.approx((0.10 - spread, 0.10 + spread))


def test_the_paired_interval_holds_what_it_promises() -> None:
    """The share of 90% intervals that hold the true difference, where much and little is agreed."""
    generator = np.random.Generator(np.random.PCG64(1))
    for both, only, other in [(0.5, 0.2, 0.1), (0.8, 0.05, 0.02), (0.3, 0.3, 0.3)]:
        counts = generator.multinomial(60, [both, only, other, 1 - both - only - other], 4000)
        inside = [
            found.low <= only - other <= found.high
            for found in (paired_interval(int(a), int(b), 60) for _, a, b, _ in counts)
        ]
        assert 0.87 <= np.mean(inside) <= 0.96


def test_four_outcomes() -> None:
    assert of_counts(20, 2, 100).outcome == BETTER
    assert of_counts(2, 20, 100).outcome == WORSE
    assert of_counts(3, 3, 500).outcome == EQUIVALENT
    assert of_counts(10, 6, 100).outcome == UNSURE


def test_few_examples_decide_nothing() -> None:
    found = of_counts(FEWEST - 1, 0, FEWEST - 1)
    assert found.p < 1e-6 and found.outcome == UNSURE
    assert not found.rules_out_gain and not found.rules_out_loss
    assert of_counts(0, 0, 0).outcome == UNSURE


def test_a_significant_difference_that_does_not_matter_is_equivalent() -> None:
    found = of_counts(16, 4, 1000)
    assert found.p < 0.05 and found.outcome == EQUIVALENT


def test_scores_between_are_compared_by_permutation_and_bootstrap() -> None:
    generator = np.random.Generator(np.random.PCG64(2))
    first, second = generator.random(60), generator.random(60)
    better = difference(np.clip(first + 0.4, 0, 1), first * 0.5)
    assert better.outcome == BETTER and better.low > 0 and better.p < 0.01
    alike = difference(first, second)
    assert alike.outcome == UNSURE and alike.low < 0 < alike.high
    with pytest.raises(ValueError, match="both must be"):
        difference([1.0], [1.0, 0.0])


def test_the_permutation_test_is_exact_for_few_pairs() -> None:
    """All 2^6 signs, by hand: 2 of 64 are as far as the observed ones, all of one sign."""
    p = permutation([1, 2, 3, 4, 5, 6], draws=50_000)
    assert p == pytest.approx(2 / 64, abs=0.004)
    assert permutation([0.0, 0.0]) == 1.0
    assert permutation([1.0] * 40) > 0


def test_the_bootstrap_is_scipys_bca() -> None:
    values = np.random.Generator(np.random.PCG64(3)).exponential(size=40)
    ours = bootstrap(values, seed=1, draws=20_000)
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert (bootstrap([0.5] * 10).low, bootstrap([0.5] * 10).high) == (0.5, 0.5)


def test_a_bootstrap_of_what_is_no_mean() -> None:
    values = np.arange(50.0)

    def largest(rows: np.ndarray) -> np.ndarray:
        return values[rows].max(axis=1)

    found = bootstrap(values, draws=500, statistic=largest)
    assert 35 < found.low <= found.high <= 49


def test_how_many_examples_would_do() -> None:
    """Connor 1987 by hand: ψ = .3, δ = .1: (1.96 √.3 + .8416 √.29)² / .01 = 233.1"""
    assert wanted(20, 10, 100) == 234
    assert wanted(10, 10, 100) is None and wanted(0, 0, 0) is None
    assert wanted(5, 0, 10) == FEWEST


def test_draws_that_differ_make_the_interval_wider() -> None:
    alike = [[1.0, 0.0] * 50 for _ in range(10)]
    apart = [[1.0] * 100 if draw < 5 else [0.0] * 100 for draw in range(10)]
    narrow, wide = hierarchical(alike), hierarchical(apart)
    assert narrow.low < 0.5 < narrow.high and wide.low < 0.5 < wide.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_a_difference_of_scores_on_one_example_can_be_shown() -> None:
    found = difference([1.0], [1 / 3])
    assert (found.low, found.high, found.outcome) == (-1.0, 1.0, UNSURE)
    assert found.points == "+67 (\N{MINUS SIGN}100 to 100)"

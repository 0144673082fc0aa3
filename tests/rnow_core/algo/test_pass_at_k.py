"""pass@k against counting every subset, intervals against the statistics module."""

import random
from fractions import Fraction
from itertools import combinations
from statistics import NormalDist, fmean, stdev

import pytest

from rnow_core.algo.pass_at_k import mean_estimate, pass_at_k


def counted(samples, passed, k):
    """The share of all choices of k samples with one that passes."""
    chosen = list(combinations([True] * passed + [False] * (samples - passed), k))
    return Fraction(sum(any(choice) for choice in chosen), len(chosen))


def test_pass_at_k_is_the_share_of_choices_that_pass():
    for samples in range(1, 9):
        for passed in range(samples + 1):
            for k in range(1, samples + 1):
                expected = float(counted(samples, passed, k))
                assert pass_at_k(samples, passed, k) == pytest.approx(expected, abs=1e-15), (
                    samples,
                    passed,
                    k,
                )


def test_pass_at_k_is_unbiased():
    """Over all outcomes of n tries with chance p it averages to 1 - (1 - p)^k, which the plug-in does not."""
    p, samples, k = 0.3, 5, 3
    chances = [len(list(combinations(range(samples), c))) * p**c * (1 - p) ** (samples - c) for c in range(6)]
    mean = sum(chance * pass_at_k(samples, c, k) for c, chance in enumerate(chances))
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_pass_at_k_of_many_samples_neither_overflows_nor_cancels():
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, rel=1e-9)
    assert pass_at_k(10**6, 2, 1) == pytest.approx(2e-6, rel=1e-9)


@pytest.mark.parametrize(("samples", "passed", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_what_is_not_defined_is_refused(samples, passed, k):
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(samples, passed, k)


def test_the_interval_is_the_normal_one_over_problems():
    values = [random.Random(3).random() for _ in range(17)]
    half = NormalDist().inv_cdf(0.975) * stdev(values) / 17**0.5
    found = mean_estimate(values)
    assert found.mean == pytest.approx(fmean(values), abs=1e-15)
    assert (found.low, found.high) == pytest.approx((fmean(values) - half, fmean(values) + half), abs=1e-14)


def test_the_interval_of_a_share_stays_within_0_and_1():
    found = mean_estimate([0.0, 1.0, 1.0], 0.0, 1.0)
    assert found.high == 1.0
    assert 0.0 < found.low < mean_estimate([0.0, 1.0, 1.0]).high - 1.0


def test_one_problem_has_no_interval_and_none_no_estimate():
    assert (mean_estimate([0.5]).low, mean_estimate([0.5]).high) == (None, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_estimate([])

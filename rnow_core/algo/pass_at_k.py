"""What k samples a problem say of a policy: avg@k, unbiased pass@k, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95 % confidence interval; `low` and `high` are None for a single problem."""

    mean: float
    low: float | None = None
    high: float | None = None


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that at least one of k samples passes, without bias, from `passed` of `samples`.

    1 - C(n - c, k) / C(n, k), as the product over i = n - c + 1 .. n of 1 - k / i (Chen et al., 2021, "Evaluating
    Large Language Models Trained on Code"), which neither overflows nor cancels.

    Raises:
        ValueError: k is below 1 or above `samples`, or `passed` is not within 0 .. `samples`.
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {passed} passed among {samples} samples is not defined")
    if samples - passed < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - passed + 1, samples + 1))


def mean_estimate(values_P: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Estimate:
    """The mean of one value a problem, plus and minus 1.96 standard errors (sample deviation over sqrt(P)), cut at
    what the mean can be at `least` and `most`.

    Problems are the independent draws, so the samples of one problem count as one value (Miller, 2024, "Adding
    Error Bars to Evals", clustered by question). Equal values give an interval of no width.

    Raises:
        ValueError: there are no values.
    """
    count = len(values_P)
    if count == 0:
        raise ValueError("an estimate needs at least one problem")
    mean = math.fsum(values_P) / count
    if count == 1:
        return Estimate(mean)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values_P) / (count - 1))
    half = Z_95 * deviation / math.sqrt(count)
    return Estimate(mean, max(least, mean - half), min(most, mean + half))

"""Estimates from sampled tokens of how far two models are apart, in nats a token. Means of no token are 0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rnow_core.algo.losses import LOG_RATIO_BOUND


def teacher_kl(old_N: Tensor | Sequence[float], teacher_N: Tensor | Sequence[float]) -> float:
    """Token mean of old - log p_teacher: reverse KL, before taus and clip.

    Positive in expectation over the student's samples; one batch may be negative.
    """
    return _mean(_difference(old_N, teacher_N))


def mismatch_kl(old_N: Tensor | Sequence[float], mu_N: Tensor | Sequence[float]) -> float:
    """Token mean of exp(d) - d - 1 with d = old - mu: KL(sampler || trainer), never negative for any one
    token.

    d is bounded as in the importance weight, so that one broken token gives a large number instead of inf.
    """
    d_N = _difference(old_N, mu_N).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return _mean(torch.expm1(d_N) - d_N)


def _difference(a_N: Tensor | Sequence[float], b_N: Tensor | Sequence[float]) -> Tensor:
    a, b = (torch.as_tensor(values, dtype=torch.float64).detach() for values in (a_N, b_N))
    if a.shape != b.shape:
        raise ValueError(f"got {len(a)} and {len(b)} logprobs, expected one of each a token")
    return a - b


def _mean(values_N: Tensor) -> float:
    return float(values_N.mean()) if len(values_N) else 0.0

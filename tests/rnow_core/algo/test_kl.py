import math
import random

import pytest
import torch

from rnow_core.algo.kl import mismatch_kl, teacher_kl


def test_teacher_kl_is_the_mean_difference():
    assert teacher_kl([-1.0, -2.0], [-3.0, -1.0]) == 0.5
    assert teacher_kl(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0])) == 0.0


def test_mismatch_kl_by_its_definition():
    rng = random.Random(1)
    old = [rng.uniform(-5, 0) for _ in range(50)]
    mu = [value + rng.gauss(0, 0.3) for value in old]
    expected = sum(math.exp(o - m) - (o - m) - 1 for o, m in zip(old, mu, strict=True)) / 50
    assert mismatch_kl(old, mu) == pytest.approx(expected, rel=1e-9)
    assert mismatch_kl(old, old) == 0.0


def test_mismatch_kl_is_positive_either_way_and_sees_tiny_gaps():
    for gap in (1e-5, -1e-5, 2.0, -2.0):
        assert mismatch_kl([-1.0 + gap], [-1.0]) == pytest.approx(math.expm1(gap) - gap, rel=1e-4)
        assert mismatch_kl([-1.0 + gap], [-1.0]) > 0.0


def test_mismatch_kl_in_expectation_is_the_kl_of_sampler_to_trainer():
    generator = torch.Generator().manual_seed(0)
    mu, old = (torch.log_softmax(torch.randn(40, generator=generator, dtype=torch.float64), -1) for _ in "ab")
    estimates = torch.tensor(
        [mismatch_kl(old[v : v + 1], mu[v : v + 1]) for v in range(40)], dtype=torch.float64
    )
    expected = (mu.exp() * (mu - old)).sum()
    assert (mu.exp() * estimates).sum().item() == pytest.approx(expected.item(), rel=1e-9)


def test_one_broken_token_is_loud_and_finite():
    value = mismatch_kl([0.0, -1.0], [-5000.0, -1.0])
    assert math.isfinite(value)
    assert value > 1e6


def test_no_tokens():
    assert teacher_kl([], []) == mismatch_kl([], []) == 0.0


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="got 2 and 1 logprobs"):
        teacher_kl([-1.0, -2.0], [-1.0])

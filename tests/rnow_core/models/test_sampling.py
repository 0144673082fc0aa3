import math

import numpy as np
import pytest
import torch

from rnow_core.models.sampling import GAMMA, MASK64, draw, mix64, sample, signed64, uniforms


def columns(*values):
    return torch.tensor([signed64(value) for value in values], dtype=torch.int64)


def test_uniforms_are_the_splitmix64_stream():
    # first outputs of splitmix64 with seed 1234567, as published with the generator
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    got = uniforms(columns(1234567).repeat(4), torch.arange(4))
    assert got.tolist() == [(value >> 11) * 2.0**-53 for value in published]


@pytest.mark.parametrize("key", [0, 1, (1 << 63) - 1, 1 << 63, MASK64])
def test_uniforms_equal_plain_integers_for_every_key(key):
    expected = [(mix64(key + (index + 1) * GAMMA) >> 11) * 2.0**-53 for index in range(5)]
    assert uniforms(columns(key).repeat(5), torch.arange(5)).tolist() == expected


def test_uniforms_of_neighbouring_keys_look_independent():
    keys = columns(*[mix64(key) for key in range(20000)])
    first, second = uniforms(keys, torch.zeros_like(keys)), uniforms(keys, torch.ones_like(keys))
    assert abs(first.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.03


@pytest.mark.parametrize("vocab", [5, 512, 513, 1000])
def test_sampled_ids_follow_the_softmax(vocab):
    generator = torch.Generator().manual_seed(0)
    logits_V = 2 * torch.randn(vocab, generator=generator)
    count = 200_000
    keys = columns(*[mix64(key) for key in range(1000)]).repeat(count // 1000)
    uniform = uniforms(keys, torch.arange(count))
    ids = torch.cat([sample(logits_V.expand(len(u), -1), u)[0] for u in uniform.split(5000)])
    expected = logits_V.double().softmax(0) * count
    observed = torch.bincount(ids, minlength=vocab).double()
    frequent = expected >= 5
    chi_square = ((observed - expected)[frequent] ** 2 / expected[frequent]).sum().item()
    freedom = int(frequent.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("vocab", [9, 700, 1024])
def test_weight_zero_is_never_drawn(vocab):
    weights = torch.zeros(4, vocab)
    weights[0, vocab // 2] = 1.0
    weights[1, [1, vocab - 2]] = 0.5
    weights[2, 3:6] = torch.tensor([1e-30, 1.0, 1e-30])
    weights[3, -1] = 1e-38
    for uniform in (0.0, 2.0**-53, 0.5, 1 - 2.0**-53):
        ids, _ = draw(weights, torch.full((4,), uniform, dtype=torch.float64))
        assert (weights.gather(1, ids[:, None]) > 0).all()


def test_a_large_vocabulary_is_drawn_as_in_float64():
    vocab, rows = 151_936, 64
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(1)).mul_(3)
    uniform = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    ids, logp = sample(logits.expand(rows, -1), uniform)
    cdf = np.exp(logits[0].double().numpy())
    cdf = np.cumsum(cdf / cdf.sum())
    below = np.where(ids.numpy() > 0, cdf[ids.numpy() - 1], 0.0)
    assert (below - 1e-7 <= uniform.numpy()).all()
    assert (uniform.numpy() <= cdf[ids.numpy()] + 1e-7).all()
    expected = logits[0].double().log_softmax(0)[ids]
    assert (logp - expected).abs().max() < 2e-6


def test_the_tail_of_a_large_vocabulary_keeps_its_mass():
    vocab = 151_936
    logits = torch.full((1, vocab), math.log(1e-8))
    logits[0, 0] = 0.0
    tail = (vocab - 1) * 1e-8
    uniform = 1 - tail * (torch.arange(100, dtype=torch.float64) + 0.5) / 100 / (1 + tail)
    ids, _ = sample(logits.expand(100, -1), uniform)
    expected = vocab - (torch.arange(100) + 0.5) / 100 * (vocab - 1)
    assert (ids - expected).abs().max() < 50


def test_logits_that_are_not_finite_show_in_the_logprob():
    logits = torch.zeros(2, 40)
    logits[0, 3], logits[1, 3] = torch.nan, torch.inf
    _, logp = sample(logits, torch.full((2,), 0.5, dtype=torch.float64))
    assert not torch.isfinite(logp).any()

import random

import pytest

from rnow_core.algo.groups import group_advantages


def test_reward_minus_the_mean_of_the_survivors():
    assert group_advantages([1.0, 0.0, 0.0, 1.0]) == [0.5, -0.5, -0.5, 0.5]
    assert group_advantages([3.0, 0.0, 0.0]) == [2.0, -1.0, -1.0]


def test_it_is_not_divided_by_the_deviation():
    assert group_advantages([0.0, 100.0]) == [-50.0, 50.0]


def test_alone_or_empty():
    assert group_advantages([7.0]) == [0.0]
    assert group_advantages([]) == []


def test_advantages_of_a_group_sum_to_zero():
    rng = random.Random(0)
    for size in range(1, 20):
        rewards = [rng.uniform(-5, 5) for _ in range(size)]
        assert sum(group_advantages(rewards)) == pytest.approx(0.0, abs=1e-12)

"""Advantages of rollouts: what each did better than the others of its prompt. Plain numbers, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence


def group_advantages(rewards_G: Sequence[float]) -> list[float]:
    """Reward minus the mean over a group's surviving rollouts (grpo without division by the deviation).

    A group of one survivor has nothing to compare with: [0.0].
    """
    if not rewards_G:
        return []
    mean = math.fsum(rewards_G) / len(rewards_G)
    return [reward - mean for reward in rewards_G]

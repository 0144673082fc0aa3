"""avg@k and pass@k of rollouts: what a problem's samples say together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rnow_core.algo.pass_at_k import pass_at_k
from rnow_core.types import ScoredRollout

ROUNDING = 1e-9
"""A total of several rewards may miss the threshold by the last bit."""


@dataclass(frozen=True)
class Scoring:
    """How samples are judged: `samples` of each problem, the k of each pass@k, and the total reward that passes."""

    samples: int
    pass_at: tuple[int, ...] = (1,)
    threshold: float = 1.0

    def passed(self, rewards_G: Iterable[float]) -> int:
        """How many of a problem's total rewards pass."""
        return sum(reward >= self.threshold - ROUNDING for reward in rewards_G)

    def avg(self, rewards_PG: Sequence[Sequence[float]]) -> list[float]:
        """The mean reward of each problem that has samples."""
        return [math.fsum(rewards_G) / len(rewards_G) for rewards_G in rewards_PG if rewards_G]

    def passes(self, rewards_PG: Sequence[Sequence[float]], k: int) -> list[float]:
        """pass@k of each problem that has at least k samples."""
        return [
            pass_at_k(len(rewards_G), self.passed(rewards_G), k)
            for rewards_G in rewards_PG
            if len(rewards_G) >= k
        ]


def problem_rewards(rollouts: Iterable[ScoredRollout]) -> dict[int, list[float]]:
    """The total rewards of each problem's samples, by the row's index; rollouts without rewards are left out."""
    rewards: dict[int, list[float]] = {}
    for scored in rollouts:
        if scored.reward is not None:
            rewards.setdefault(scored.rollout.prompt.index, []).append(scored.reward)
    return rewards


def pass_metrics(rollouts: Iterable[ScoredRollout], scoring: Scoring) -> dict[str, float]:
    """`avg@<samples>` and each `pass@<k>`: means over problems. Empty without rewards."""
    rewards_PG = list(problem_rewards(rollouts).values())
    values_P = {f"avg@{scoring.samples}": scoring.avg(rewards_PG)}
    values_P |= {f"pass@{k}": scoring.passes(rewards_PG, k) for k in scoring.pass_at}
    return {name: math.fsum(values) / len(values) for name, values in values_P.items() if values}

"""The project's rewards, for the rows that name them."""

from __future__ import annotations

from collections.abc import Mapping

from rnow_core.env.rewards import RewardInfo, total_reward
from rnow_core.env.worker import RewardWorker
from rnow_core.types import Message, Prompt


class ProjectRewards:
    """Scores conversations in the worker process that holds the project's rewards.py."""

    def __init__(self, worker: RewardWorker, known: Mapping[str, RewardInfo]) -> None:
        self._worker = worker
        self._known = known

    async def score(self, prompt: Prompt, messages: list[Message]) -> Mapping[str, float]:
        """One value for each reward that the row names; RolloutFailed when one of them fails."""
        return await self._worker.score(prompt.rewards, messages, prompt.metadata, prompt.variables)

    def total(self, rewards: Mapping[str, float]) -> float:
        """The values as one reward: their sum, or 0 behind a gate that is 0."""
        return total_reward(rewards, self._known)

    async def close(self) -> None:
        """End the worker."""
        await self._worker.close()

"""One call of a reward in flight, and what is raised when it gives no number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rnow_core.env.define import RewardInfo
from rnow_core.errors import RnowError, RolloutFailed


class RewardFailure(RolloutFailed):
    """A reward gave no number for a rollout. `reward` is its name, `problem` what happened."""

    def __init__(self, reward: str, problem: str) -> None:
        super().__init__(f"reward `{reward}` {problem}", "the log of the reward worker has the traceback")
        self.reward = reward
        self.problem = problem


@dataclass(slots=True)
class Call:
    """A request that waits for its answer. `limit` in seconds; `line` is the request as sent."""

    number: int
    info: RewardInfo
    limit: float
    line: bytes
    score: asyncio.Future[float]
    started: bool = False
    timer: asyncio.TimerHandle | None = None

    @property
    def blocks(self) -> bool:
        """Whether the call has the worker's main thread for itself."""
        return self.started and not self.info.is_async

    def wait(self, seconds: float, then: Callable[[Call], None]) -> None:
        """Call `then` with this call after so many seconds, unless it is answered before."""
        self.timer = asyncio.get_running_loop().call_later(seconds, then, self)

    def rest(self) -> None:
        """Not at work (any more)."""
        self.started = False
        if self.timer is not None:
            self.timer.cancel()

    def succeed(self, score: float) -> None:
        """Answer with a score."""
        self.rest()
        if not self.score.done():
            self.score.set_result(score)

    def fail(self, error: RnowError) -> None:
        """Answer with an error."""
        self.rest()
        if not self.score.done():
            self.score.set_exception(error)

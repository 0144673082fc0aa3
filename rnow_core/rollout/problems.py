"""Samples problems one by one, so that each is finished, and can be kept, by itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from rnow_core.errors import RolloutFailed, RunFailed
from rnow_core.rollout.collect import one_rollout
from rnow_core.rollout.evaluate import EVAL_STEP
from rnow_core.rollout.parts import RolloutParts
from rnow_core.types import Prompt, ScoredRollout

TRIED_BEFORE_GIVING_UP = 8
"""Problems after which an evaluation ends when more than half of them failed."""


@dataclass(frozen=True)
class ProblemSamples:
    """The samples of a problem, in order, and why others failed."""

    prompt: Prompt
    rollouts: list[ScoredRollout]
    failures: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether at least half of the samples are there."""
        return bool(self.rollouts) and len(self.rollouts) >= len(self.failures)


@dataclass
class _Tally:
    tried: int = 0
    failed: int = 0
    causes: Counter[str] | None = None

    def add(self, result: ProblemSamples) -> None:
        self.tried += 1
        if not result.usable:
            self.failed += 1
            self.causes = (self.causes or Counter()) + Counter(result.failures)

    def require(self, allowed: float) -> None:
        """RunFailed when more than this share of the problems failed."""
        if self.failed > allowed * self.tried and self.causes:
            cause, count = self.causes.most_common(1)[0]
            raise RunFailed(
                f"{self.failed} of {self.tried} problems lost more than half of their samples; most often "
                f"({count} times) with: {cause}",
                "fix the cause; the same command goes on with what is missing",
            )


async def sample_problems(
    prompts: Sequence[Prompt],
    samples: int,
    at_once: int,
    parts: RolloutParts,
    keep: Callable[[ProblemSamples], Awaitable[None]],
    wanted: Callable[[], bool],
) -> None:
    """Sample each prompt `samples` times, `at_once` prompts beside each other, and hand over each that is usable.

    The seeds are those of every evaluation: the same prompt is sampled in the same way whichever are done before.

    Args:
        prompts: the problems, in order.
        samples: rollouts of each.
        at_once: problems in flight.
        parts: sampler, rewards and settings; teachers do not score.
        keep: called for each usable problem as soon as it is finished.
        wanted: asked before each problem; False lets those in flight finish and begins no more.

    Raises:
        RunFailed: problems lost more than half of their samples: at the end for any, and before it when most did.
    """
    if parts.toolbox is not None:
        await parts.toolbox.prepare(prompts[:at_once], samples)
    tally = _Tally()
    todo = iter(prompts)
    async with parts.phase("rollout"):
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(at_once, len(prompts))):
                    group.create_task(_work(todo, samples, parts, keep, wanted, tally))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
    tally.require(0)


async def _work(
    todo: Iterator[Prompt],
    samples: int,
    parts: RolloutParts,
    keep: Callable[[ProblemSamples], Awaitable[None]],
    wanted: Callable[[], bool],
    tally: _Tally,
) -> None:
    """Problem after problem, while there are any and they are wanted."""
    for prompt in todo:
        if not wanted():
            return
        outcomes = await asyncio.gather(*(_outcome(prompt, sample, parts) for sample in range(samples)))
        rollouts = [outcome for outcome in outcomes if isinstance(outcome, ScoredRollout)]
        result = ProblemSamples(
            prompt, rollouts, tuple(outcome for outcome in outcomes if isinstance(outcome, str))
        )
        tally.add(result)
        if result.usable:
            await keep(result)
        elif tally.tried >= TRIED_BEFORE_GIVING_UP:
            tally.require(0.5)


async def _outcome(prompt: Prompt, sample: int, parts: RolloutParts) -> ScoredRollout | str:
    try:
        return await one_rollout(prompt, sample, EVAL_STEP, parts)
    except RolloutFailed as failure:
        return failure.message

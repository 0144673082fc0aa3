"""Prompts in, scored rollouts out: groups sampled together, failures dropped and counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from rnow_core.data.seeds import sample_key
from rnow_core.env.toolbox import ToolSession
from rnow_core.errors import RolloutFailed, RunFailed
from rnow_core.rollout.episode import sample_episode
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.score import score_rewards, score_with_teachers, with_task_advantages
from rnow_core.types import Prompt, ScoredRollout, version_step

RETRY_OFFSET = 1_000_000
"""A retried step samples with other keys: its rollouts are numbered from here for their seeds."""


@dataclass(frozen=True)
class Collected:
    """The surviving rollouts of a step, in the order of prompts and samples, why others failed, and how many were
    dropped because an older version than the run allows sampled them.
    """

    rollouts: list[ScoredRollout]
    failures: tuple[str, ...] = ()
    stale: int = 0


async def collect(prompts: Sequence[Prompt], group_size: int, step: int, parts: RolloutParts) -> Collected:
    """Sample `group_size` rollouts of each prompt, then score them.

    A step that keeps less than half of its rollouts is sampled once more with other seeds; then the run stops.

    Raises:
        RunFailed: twice more than half of the rollouts failed; the message has the commonest cause.
    """
    wanted = len(prompts) * group_size
    async with parts.phase("rollout"):
        sampled = await _sample(prompts, group_size, step, parts, offset=0)
        if _too_few(sampled, wanted):
            again = await _sample(prompts, group_size, step, parts, offset=RETRY_OFFSET)
            sampled = Collected(
                again.rollouts, sampled.failures + again.failures, sampled.stale + again.stale
            )
    if _too_few(sampled, wanted):
        causes = [*sampled.failures, *["sampled by too old a version"] * sampled.stale]
        cause, count = Counter(causes).most_common(1)[0]
        raise RunFailed(
            f"step {step}: twice less than half of its {wanted} rollouts succeeded; most often ({count} times) "
            f"with: {cause}",
            "fix the cause, then continue with: rnow run --resume",
        )
    scored = sampled.rollouts
    if not parts.score_by_group:
        async with parts.phase("score"):
            scored = await score_with_teachers(scored, parts)
    return replace(sampled, rollouts=with_task_advantages(scored))


def _too_few(collected: Collected, wanted: int) -> bool:
    return 2 * len(collected.rollouts) < wanted


async def _sample(
    prompts: Sequence[Prompt], group_size: int, step: int, parts: RolloutParts, offset: int
) -> Collected:
    """All groups of the step at once; the sampler decides how many rollouts run beside each other."""
    if parts.toolbox is not None:
        await parts.toolbox.prepare(prompts, group_size)
    tasks = [asyncio.ensure_future(_group(prompt, group_size, step, parts, offset)) for prompt in prompts]
    try:
        groups = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    fresh = [scored for scored in rollouts if not _stale(scored.rollout.policy, step, parts)]
    failures = tuple(failure for group in groups for failure in group.failures)
    return Collected(fresh, failures, len(rollouts) - len(fresh))


def _stale(policy: str, step: int, parts: RolloutParts) -> bool:
    """Whether a version is too old for a step; those of evaluations (step 0) never are."""
    if step == 0 or parts.max_staleness is None:
        return False
    return step - 1 - version_step(policy) > parts.max_staleness


async def _group(prompt: Prompt, group_size: int, step: int, parts: RolloutParts, offset: int) -> Collected:
    """One prompt's rollouts, scored at once where the teachers like that."""
    outcomes = await asyncio.gather(
        *(_outcome(prompt, sample, step, parts, offset) for sample in range(group_size))
    )
    rollouts = [outcome for outcome in outcomes if isinstance(outcome, ScoredRollout)]
    if parts.score_by_group:
        rollouts = await score_with_teachers(rollouts, parts)
    return Collected(rollouts, tuple(outcome for outcome in outcomes if isinstance(outcome, str)))


def _session(
    prompt: Prompt, name: str, parts: RolloutParts
) -> AbstractAsyncContextManager[ToolSession | None]:
    """Where the rollout's tools and sandboxed rewards run; they share one sandbox, which ends with the session."""
    return parts.toolbox.session(prompt, name) if parts.toolbox else nullcontext()


async def one_rollout(
    prompt: Prompt, sample: int, step: int, parts: RolloutParts, offset: int = 0
) -> ScoredRollout:
    """One rollout with its rewards; its seeds are those of `step` and of `sample` moved by `offset`.

    Raises:
        RolloutFailed: the episode or a reward could not be completed.
    """
    keys = partial(sample_key, parts.seed, step, prompt.index, sample + offset)
    async with _session(prompt, f"{step}-{prompt.index}-{sample + offset}", parts) as session:
        rollout = await sample_episode(prompt, sample, keys, parts, session)
        return await score_rewards(rollout, parts, session)


async def _outcome(
    prompt: Prompt, sample: int, step: int, parts: RolloutParts, offset: int
) -> ScoredRollout | str:
    """One rollout, or the reason why there is none."""
    try:
        return await one_rollout(prompt, sample, step, parts, offset)
    except RolloutFailed as failure:
        return failure.message

"""What teacher and rewards say of finished rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from rnow_core.algo.groups import group_advantages
from rnow_core.env.toolbox import ToolSession
from rnow_core.errors import RunFailed
from rnow_core.rollout.parts import RolloutParts
from rnow_core.types import Rollout, ScoredRollout, ScoreRequest


async def score_rewards(
    rollout: Rollout, parts: RolloutParts, session: ToolSession | None = None
) -> ScoredRollout:
    """Run the row's rewards on the finished conversation. A row without rewards keeps `reward` None."""
    if parts.rewards is None or not rollout.prompt.rewards:
        return ScoredRollout(rollout)
    rewards = await parts.rewards.score(rollout.prompt, list(rollout.messages), session)
    return ScoredRollout(rollout, rewards=rewards, reward=parts.rewards.total(rewards))


async def score_with_teachers(rollouts: Sequence[ScoredRollout], parts: RolloutParts) -> list[ScoredRollout]:
    """Add the teachers' logprobs of the student's own ids, in the order given; without a teacher, as they came."""
    if not parts.teachers:
        return list(rollouts)
    by_teacher: dict[str, list[int]] = {}
    for index, scored in enumerate(rollouts):
        by_teacher.setdefault(parts.teacher_of(scored.rollout.prompt), []).append(index)
    result = list(rollouts)
    portions = await asyncio.gather(
        *(_score_with(name, [rollouts[i] for i in rows], parts) for name, rows in by_teacher.items())
    )
    for rows, portion in zip(by_teacher.values(), portions, strict=True):
        for index, scored in zip(rows, portion, strict=True):
            result[index] = scored
    return result


async def _score_with(name: str, rollouts: list[ScoredRollout], parts: RolloutParts) -> list[ScoredRollout]:
    """Score with one teacher. Its prompt is the student's, so the ids go over as they are."""
    requests = [teacher_request(scored.rollout) for scored in rollouts]
    scores = await parts.teachers[name].score(requests)
    return [
        replace(
            scored,
            teacher=name,
            teacher_prompt_text=scored.rollout.prompt_text,
            teacher_logprobs_T=align(scored.rollout, logprobs, name),
        )
        for scored, logprobs in zip(rollouts, scores, strict=True)
    ]


def with_task_advantages(rollouts: Sequence[ScoredRollout]) -> list[ScoredRollout]:
    """Reward minus the mean of the group's survivors (grpo, not divided by the standard deviation).

    A survivor that is alone in its group gets 0, and so does a rollout without a reward.
    """
    groups: dict[int, list[int]] = {}
    for index, scored in enumerate(rollouts):
        if scored.reward is not None:
            groups.setdefault(scored.rollout.prompt.index, []).append(index)
    result = list(rollouts)
    for members in groups.values():
        rewards = [rollouts[index].reward or 0.0 for index in members]
        for index, advantage in zip(members, group_advantages(rewards), strict=True):
            result[index] = replace(rollouts[index], task_advantage=advantage)
    return result


def teacher_request(rollout: Rollout) -> ScoreRequest:
    """Ask for every position behind the first prompt."""
    return ScoreRequest(ids=rollout.trajectory.ids_T, start=rollout.trajectory.prompt_length)


def align(rollout: Rollout, response_logprobs: Sequence[float], teacher: str) -> tuple[float, ...]:
    """Put the response's logprobs behind zeros for the prompt, one value for each id of the trajectory.

    Raises:
        RunFailed: the teacher returned another number of logprobs than the response has ids.
    """
    trajectory = rollout.trajectory
    expected = len(trajectory.ids_T) - trajectory.prompt_length
    if len(response_logprobs) != expected:
        raise RunFailed(
            f"teacher '{teacher}' returned {len(response_logprobs)} logprobs for a response of {expected} ids",
            "the scoring server and this version of rnow do not fit together",
        )
    return (0.0,) * trajectory.prompt_length + tuple(response_logprobs)

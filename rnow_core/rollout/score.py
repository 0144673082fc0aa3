"""What teacher and rewards say of finished rollouts."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rnow_core.algo.groups import group_advantages
from rnow_core.env.toolbox import ToolSession
from rnow_core.errors import RunFailed
from rnow_core.models.seams import Teacher
from rnow_core.rollout.parts import RolloutParts
from rnow_core.types import Rollout, ScoredRollout, ScoreRequest, SignalWish, TeacherSignal


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
    """Score with one teacher."""
    views = teacher_views([scored.rollout for scored in rollouts], name, parts)
    scores, signals = await _ask(parts.teachers[name], rollouts, views, parts.signal)
    return [
        replace(
            scored,
            teacher=name,
            teacher_prompt_text=view.prompt_text,
            teacher_logprobs_T=align(scored.rollout, logprobs, name, view.unscored),
            signal=signal,
        )
        for scored, view, logprobs, signal in zip(rollouts, views, scores, signals, strict=True)
    ]


async def _ask(
    teacher: Teacher, rollouts: Sequence[ScoredRollout], views: Sequence[TeacherView], wish: SignalWish | None
) -> tuple[Sequence[Sequence[float]], Sequence[TeacherSignal | None]]:
    """Logprobs of every response, and what is wished for of its sampled tokens, as far as the teacher reads."""
    requests = [view.request for view in views]
    if wish is None:
        return await teacher.score(requests), [None] * len(views)
    found = await teacher.score_with_signal(requests, wish)
    signals = []
    for scored, answer in zip(rollouts, found, strict=True):
        trajectory = scored.rollout.trajectory
        mask = trajectory.mask_T[trajectory.prompt_length :][: len(answer.signal)]
        signals.append(answer.signal.take([place for place, sampled in enumerate(mask) if sampled]))
    return [answer.logprobs for answer in found], signals


@dataclass(frozen=True, slots=True)
class TeacherView:
    """A rollout as its teacher reads it: its own prompt, then the student's response ids as far as they fit.

    `unscored` counts the ids at the end of the response that do not.
    """

    prompt_text: str
    request: ScoreRequest
    unscored: int


def teacher_views(rollouts: Sequence[Rollout], name: str, parts: RolloutParts) -> list[TeacherView]:
    """What a teacher is asked to score, in order. Without a context its prompt is the student's, id for id.

    With one it is rendered as the student's was, the context in its place, and the student's ids follow verbatim.
    """
    rendered: dict[tuple[int, bool], tuple[str, tuple[int, ...]]] = {}
    window = parts.teacher_windows.get(name)
    views = []
    for rollout in rollouts:
        key = id(rollout.prompt), rollout.agentic
        if key not in rendered:
            rendered[key] = _teacher_prompt(rollout, parts)
        views.append(_view(rollout, *rendered[key], window))
    return views


def _teacher_prompt(rollout: Rollout, parts: RolloutParts) -> tuple[str, tuple[int, ...]]:
    seen = parts.seen_by_teacher(rollout.prompt)
    if seen is rollout.prompt:
        return rollout.prompt_text, rollout.trajectory.ids_T[: rollout.trajectory.prompt_length]
    return parts.render(seen, rollout.agentic)


def _view(rollout: Rollout, text: str, prompt_ids: tuple[int, ...], window: int | None) -> TeacherView:
    response = rollout.trajectory.response_ids
    ids = (*prompt_ids, *response)[:window]
    start = min(len(prompt_ids), len(ids))
    unscored = len(response) - (len(ids) - start)
    if ids[start:] != response[: len(response) - unscored]:
        raise ValueError(f"the teacher's ids from {start} on are not the student's response")
    return TeacherView(text, ScoreRequest(ids, start), unscored)


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


def response_request(rollout: Rollout) -> ScoreRequest:
    """Ask for every position behind the first prompt, as the student saw it."""
    return ScoreRequest(ids=rollout.trajectory.ids_T, start=rollout.trajectory.prompt_length)


def align(
    rollout: Rollout, response_logprobs: Sequence[float], teacher: str, unscored: int = 0
) -> tuple[float, ...]:
    """Put the response's logprobs behind zeros for the prompt, one value for each id of the trajectory.

    The last `unscored` ids, which the teacher was not asked for, get NaN.

    Raises:
        RunFailed: the teacher returned another number of logprobs than it was asked for, or one that is no number.
    """
    trajectory = rollout.trajectory
    expected = len(trajectory.ids_T) - trajectory.prompt_length - unscored
    if len(response_logprobs) != expected:
        raise RunFailed(
            f"teacher '{teacher}' returned {len(response_logprobs)} logprobs for a response of {expected} ids",
            "the scoring server and this version of rnow do not fit together",
        )
    if any(math.isnan(value) for value in response_logprobs):
        raise RunFailed(
            f"teacher '{teacher}' returned a logprob that is no number",
            "the teacher's weights are broken, or its dtype is too narrow: try model.dtype: float32",
        )
    return (0.0,) * trajectory.prompt_length + tuple(response_logprobs) + (math.nan,) * unscored

"""How good is a policy on the held-out rows: rewards, and the KL to the teacher on its own samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rnow_core.rollout.collect import collect
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.passes import Scoring, pass_metrics
from rnow_core.track.aggregate import reward_means, tool_means
from rnow_core.types import Prompt, ScoredRollout

EVAL_STEP = 0
"""Evaluations sample with the seeds of step 0, which is never trained: before and after are compared on the same
random numbers."""


async def evaluate(
    prompts: Sequence[Prompt], group_size: int, batch_size: int | None, parts: RolloutParts
) -> list[ScoredRollout]:
    """Sample `group_size` rollouts of every prompt, `batch_size` prompts at once (None: all), and score them."""
    portion = batch_size or len(prompts)
    rollouts: list[ScoredRollout] = []
    for start in range(0, len(prompts), portion):
        collected = await collect(prompts[start : start + portion], group_size, EVAL_STEP, parts)
        rollouts.extend(collected.rollouts)
    return rollouts


def eval_metrics(
    rollouts: Sequence[ScoredRollout], default_env: str, scoring: Scoring | None = None
) -> dict[str, float]:
    """`eval/<env>/...` for each env: the row's own, or `default_env`.

    `reward/mean` and `reward/<name>` (where rows have rewards), `teacher_kl` (token mean of sampler minus teacher
    logprob, where there is a teacher; with its context), `turns/mean` and `tools/...` (where rows have tools),
    `truncated_fraction`, `tokens/completion` (mean) and `rollouts` (count); with `scoring` also `avg@k` and `pass@k`
    (where rows have rewards).
    """
    by_env: dict[str, list[ScoredRollout]] = {}
    for scored in rollouts:
        by_env.setdefault(scored.rollout.prompt.env or default_env, []).append(scored)
    return {
        f"eval/{env}/{name}": value
        for env, group in by_env.items()
        for name, value in {**_metrics(group), **(pass_metrics(group, scoring) if scoring else {})}.items()
    }


def _metrics(rollouts: Sequence[ScoredRollout]) -> dict[str, float]:
    return {
        **reward_means(rollouts),
        **_sampled_kl(rollouts),
        **tool_means(rollouts),
        "truncated_fraction": _mean([float(scored.rollout.truncated) for scored in rollouts]),
        "tokens/completion": _mean([float(sum(scored.rollout.trajectory.mask_T)) for scored in rollouts]),
        "rollouts": float(len(rollouts)),
    }


def _sampled_kl(rollouts: Sequence[ScoredRollout]) -> dict[str, float]:
    """Token mean of log p_sampler - log p_teacher over sampled tokens."""
    differences = [
        mu - teacher
        for scored in rollouts
        if scored.teacher_logprobs_T is not None
        for mu, teacher, trained in zip(
            scored.rollout.trajectory.mu_T,
            scored.teacher_logprobs_T,
            scored.rollout.trajectory.mask_T,
            strict=True,
        )
        if trained and not math.isnan(teacher)
    ]
    return {"teacher_kl": _mean(differences)} if differences else {}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

"""The metrics of a step from what its stages returned. Names and meanings are in `step_metrics`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from rnow_core.track.repetition import repetition, sampled_spans
from rnow_core.types import Batch, ScoredRollout, StopReason, UpdateResult

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]
Metrics = dict[str, float]
MAX_LOG_RATIO = 20.0


def step_metrics(
    scored: Sequence[ScoredRollout],
    batch: Batch,
    update: UpdateResult,
    seconds: Mapping[str, float],
    failed: int,
    stale: int = 0,
    *,
    adv_tau: float = 0.0,
) -> Metrics:
    """Everything that metrics.jsonl says about a step, from numbers that exist already.

    Token means are over the batch's trained tokens; a mean over nothing is NaN, which is written as null.

    teacher_kl                mean of old - log p_teacher, before taus and clip; absent without a teacher
    teacher_kl/dataset_<i>, /<teacher> (more than one), /turn_<n> (more than one), /truncated and /finished replies
    loss/policy, grad_norm, learning_rate    as the update returned them
    reward/mean, reward/<name>               means over the rollouts that have them; absent without rewards
    advantage/mean (also combined_advantage), advantage/std  of the token advantages of the loss (population std)
    advantage/reward, advantage/reward_std   of their part from rewards, adv_tau * A_task; absent with adv_tau 0
    advantage/teacher, advantage/teacher_std of the rest, clipped and discounted; absent without a teacher's advantage
    teacher/unscored_tokens   sampled tokens that did not fit into what the teacher reads; absent without a context
    divergence                mean over scored tokens, before its weight; absent with `signal: sampled`
    entropy, clip_fraction                   token means, nats and share
    mismatch_kl               mean of exp(d) - d - 1, d = old - mu
    truncated_fraction, stop/<reason>        shares of the rollouts; repetition: of a reply's 8-grams, see there
    turns/mean, tools/calls, tools/errors    means over the rollouts that had tools; absent when none had
    tokens/prompt, /completion (sampled), /trained, /per_second (of the whole step), /rollout (mean sampled)
    time/*                    as given
    rollouts/failed, /stale   rollouts that were dropped: failed, or sampled by too old a version

    Args:
        scored: the step's rollouts, in the order of the batch's rows.
        batch: what was trained.
        update: its columns have one value a trained token, in batch order.
        seconds: `PhaseClock.take()`.
        failed: rollouts that failed.
        stale: rollouts whose version was too old.
        adv_tau: the weight that the loss gave the rewards.

    Raises:
        ValueError: lengths that do not fit together.
    """
    tokens = _trained_tokens(scored, batch, update)
    return {
        "loss/policy": update.loss,
        "grad_norm": update.grad_norm,
        "learning_rate": update.learning_rate,
        **teacher_kl(scored, tokens),
        **_token_means(tokens),
        **advantage_parts(tokens, adv_tau),
        **unscored_tokens(scored),
        **reward_means(scored),
        **_stops(scored),
        **tool_means(scored),
        **_counts(scored, tokens, seconds),
        **seconds,
        "rollouts/failed": float(failed),
        "rollouts/stale": float(stale),
    }


@dataclass(frozen=True, slots=True)
class TrainedTokens:
    """The trained tokens of a step, flat: `row_N` is the batch row of each, `turn_N` its turn (from 1)."""

    row_N: Ints
    turn_N: Ints
    mu_N: Floats
    teacher_N: Floats | None
    task_N: Floats
    old_N: Floats
    advantage_N: Floats
    clipped_N: Floats
    entropy_N: Floats
    divergence_N: Floats | None


def teacher_kl(scored: Sequence[ScoredRollout], tokens: TrainedTokens) -> Metrics:
    """`teacher_kl` and its parts; an empty dict when no rollout has a teacher."""
    has_teacher_R = np.array([item.teacher_logprobs_T is not None for item in scored], dtype=bool)
    if tokens.teacher_N is None or not has_teacher_R.any():
        return {}
    kept_N = has_teacher_R[tokens.row_N] & ~np.isnan(tokens.teacher_N)
    kl_N, row_N = (tokens.old_N - tokens.teacher_N)[kept_N], tokens.row_N[kept_N]
    dataset_R = np.array([item.rollout.prompt.dataset for item in scored])
    result = {"teacher_kl": _mean(kl_N)}
    result |= _means_by("teacher_kl/dataset_", dataset_R[row_N], kl_N)
    names = sorted({item.teacher for item in scored if item.teacher is not None})
    if len(names) > 1:
        teacher_R = np.array([item.teacher or "" for item in scored])
        result |= _means_by("teacher_kl/", teacher_R[row_N], kl_N)
    cut_R = np.array([item.rollout.truncated for item in scored], dtype=bool)
    for name, cut in (("truncated", True), ("finished", False)):
        if (of_these_N := cut_R[row_N] == cut).any():
            result[f"teacher_kl/{name}"] = _mean(kl_N[of_these_N])
    if tokens.turn_N.max(initial=1) > 1:
        result |= _means_by("teacher_kl/turn_", tokens.turn_N[kept_N], kl_N)
    return result


def advantage_parts(tokens: TrainedTokens, adv_tau: float) -> Metrics:
    """Token mean and population deviation of what rewards and teacher each put into the advantages."""
    parts: dict[str, Floats] = {}
    reward_N = adv_tau * tokens.task_N
    if adv_tau > 0.0:
        parts["advantage/reward"] = reward_N
    if tokens.teacher_N is not None and tokens.divergence_N is None:
        scored_N = ~np.isnan(tokens.teacher_N)
        parts["advantage/teacher"] = (tokens.advantage_N - reward_N)[scored_N]
    return {
        name: value
        for part, values_N in parts.items()
        for name, value in ((part, _mean(values_N)), (f"{part}_std", _std(values_N)))
    }


def unscored_tokens(scored: Sequence[ScoredRollout]) -> Metrics:
    """How many sampled tokens their teacher had no room for; an empty dict when no teacher saw anything of its own."""
    own = [
        (item.rollout.trajectory.mask_T, item.teacher_logprobs_T)
        for item in scored
        if item.teacher_logprobs_T is not None and item.teacher_prompt_text != item.rollout.prompt_text
    ]
    if not own:
        return {}
    count = sum(
        flag and math.isnan(value)
        for mask_T, values_T in own
        for flag, value in zip(mask_T, values_T, strict=True)
    )
    return {"teacher/unscored_tokens": float(count)}


def reward_means(scored: Iterable[ScoredRollout]) -> Metrics:
    """`reward/mean` and `reward/<name>` over the rollouts that have them."""
    values: dict[str, list[float]] = defaultdict(list)
    for item in scored:
        if item.reward is not None:
            values["reward/mean"].append(item.reward)
        for name, value in item.rewards.items():
            values[f"reward/{name}"].append(value)
    return {name: sum(items) / len(items) for name, items in values.items()}


def tool_means(scored: Iterable[ScoredRollout]) -> Metrics:
    """`turns/mean`, `tools/calls` and `tools/errors` of a rollout, over those that had tools."""
    agentic = [item.rollout for item in scored if item.rollout.agentic]
    if not agentic:
        return {}
    sums = {
        "turns/mean": sum(max(rollout.turns_T, default=1) for rollout in agentic),
        "tools/calls": sum(rollout.tool_calls for rollout in agentic),
        "tools/errors": sum(rollout.tool_errors for rollout in agentic),
    }
    return {name: total / len(agentic) for name, total in sums.items()}


def mismatch_kl(old_N: Floats, mu_N: Floats) -> float:
    """Token mean of exp(d) - d - 1 with d = old - mu, never negative; d is held within 20 (overflow)."""
    d_N = np.clip(old_N - mu_N, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    return _mean(np.expm1(d_N) - d_N)


def _trained_tokens(scored: Sequence[ScoredRollout], batch: Batch, update: UpdateResult) -> TrainedTokens:
    lengths_R = np.asarray(batch.lengths, dtype=np.int64)
    if len(lengths_R) != len(scored):
        raise ValueError(f"the batch has {len(lengths_R)} rows, but there are {len(scored)} rollouts")
    mask_T = np.asarray(batch.mask, dtype=bool)
    if len(mask_T) != lengths_R.sum():
        raise ValueError(f"the batch's mask has {len(mask_T)} entries, expected {lengths_R.sum()}")
    count = int(mask_T.sum())
    row_T = np.repeat(np.arange(len(lengths_R)), lengths_R)
    return TrainedTokens(
        row_N=row_T[mask_T],
        turn_N=_turns(scored, mask_T),
        mu_N=np.asarray(batch.mu, dtype=np.float64)[mask_T],
        teacher_N=np.asarray(batch.teacher, dtype=np.float64)[mask_T] if len(batch.teacher) else None,
        task_N=np.asarray(batch.task, dtype=np.float64)[mask_T],
        old_N=_column(update, "old", count),
        advantage_N=_column(update, "advantage", count),
        clipped_N=_column(update, "clipped", count),
        entropy_N=_column(update, "entropy", count),
        divergence_N=_column(update, "divergence", count) if "divergence" in update.columns else None,
    )


def _column(update: UpdateResult, name: str, count: int) -> Floats:
    values = np.asarray(update.columns[name], dtype=np.float64)
    if values.shape != (count,):
        raise ValueError(
            f"update column {name!r} has shape {values.shape}, expected ({count},) trained tokens"
        )
    return values


def _turns(scored: Sequence[ScoredRollout], mask_T: Flags) -> Ints:
    """The turn of each trained token; rollouts that do not number theirs have one turn."""
    if not any(item.rollout.turns_T for item in scored):
        return np.ones(int(mask_T.sum()), dtype=np.int64)
    turn_T: list[int] = []
    for item in scored:
        turn_T.extend(item.rollout.turns_T or [1] * len(item.rollout.trajectory.ids_T))
    return np.asarray(turn_T, dtype=np.int64)[mask_T]


def _token_means(tokens: TrainedTokens) -> Metrics:
    return {
        "advantage/mean": _mean(tokens.advantage_N),
        "advantage/std": _std(tokens.advantage_N),
        "combined_advantage": _mean(tokens.advantage_N),
        "entropy": _mean(tokens.entropy_N),
        "mismatch_kl": mismatch_kl(tokens.old_N, tokens.mu_N),
        "clip_fraction": _mean(tokens.clipped_N),
        **_divergence(tokens.divergence_N),
    }


def _divergence(divergence_N: Floats | None) -> Metrics:
    return {} if divergence_N is None else {"divergence": _mean(divergence_N[~np.isnan(divergence_N)])}


def _stops(scored: Sequence[ScoredRollout]) -> Metrics:
    counts = Counter(item.rollout.stop_reason for item in scored)
    total = max(1, len(scored))
    shares = {f"stop/{reason}": counts[reason] / total for reason in get_args(StopReason)}
    return {"truncated_fraction": sum(item.rollout.truncated for item in scored) / total, **shares}


def _counts(scored: Sequence[ScoredRollout], tokens: TrainedTokens, seconds: Mapping[str, float]) -> Metrics:
    trajectories = [item.rollout.trajectory for item in scored]
    completion = sum(trajectory.mask_T.count(True) for trajectory in trajectories)
    replies = (span for each in trajectories for span in sampled_spans(each.ids_T, each.mask_T))
    step_seconds = seconds.get("time/step", 0.0)
    return {
        "repetition": repetition(replies),
        "tokens/rollout": completion / max(1, len(scored)),
        "tokens/prompt": float(sum(trajectory.prompt_length for trajectory in trajectories)),
        "tokens/completion": float(completion),
        "tokens/trained": float(len(tokens.row_N)),
        "tokens/per_second": completion / step_seconds if step_seconds > 0 else float("nan"),
    }


def _means_by(prefix: str, keys_N: NDArray[Any], values_N: Floats) -> Metrics:
    """One mean for each distinct key, named prefix + key."""
    keys, group_N = np.unique(keys_N, return_inverse=True)
    sums, counts = np.bincount(group_N, weights=values_N), np.bincount(group_N)
    return {
        f"{prefix}{key}": float(total / count) for key, total, count in zip(keys, sums, counts, strict=True)
    }


def _std(values_N: Floats) -> float:
    return float(values_N.std()) if len(values_N) else float("nan")


def _mean(values_N: Floats) -> float:
    return float(values_N.mean()) if len(values_N) else float("nan")

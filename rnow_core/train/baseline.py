"""The gap between student and teacher before step 1, and how much of it a run has closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rnow_core.algo.pass_at_k import mean_estimate
from rnow_core.rollout.passes import problem_rewards
from rnow_core.types import ScoredRollout

Warn = Callable[[str, str], None]

_REWARD = "/reward/mean"
_GAP_CLOSED = "/gap_closed"


def baseline_metrics(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, float]:
    """`eval/<env>/baseline_student/avg`, `baseline_teacher/avg` (mean rewards) and `baseline_diff`, what the student
    has to make up, from the figures of both before step 1.
    """
    metrics: dict[str, float] = {}
    for name in teacher:
        if name.endswith(_REWARD) and student.get(name) is not None:
            env = name.removesuffix(_REWARD)
            metrics[f"{env}/baseline_student/avg"] = student[name]
            metrics[f"{env}/baseline_teacher/avg"] = teacher[name]
            metrics[f"{env}/baseline_diff"] = teacher[name] - student[name]
    return metrics


def gap_metrics(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, float]:
    """`eval/<env>/gap_closed` in percent: 100 * (student - baseline_student) / baseline_diff.

    An env without a gap (baseline_diff at or below 0) has none.

    Args:
        before: the figures before step 1.
        now: the student's figures now.
    """
    metrics: dict[str, float] = {}
    for name, gap in before.items():
        env = name.removesuffix("/baseline_diff")
        reward = now.get(f"{env}{_REWARD}")
        if env != name and gap is not None and gap > 0 and reward is not None:
            metrics[f"{env}{_GAP_CLOSED}"] = 100.0 * (reward - before[f"{env}/baseline_student/avg"]) / gap
    return metrics


def is_closed(metrics: Mapping[str, Any], percent: float) -> bool:
    """Whether every env that has a gap has closed so much of it, by the figures of one evaluation."""
    closed = [value for name, value in metrics.items() if name.endswith(_GAP_CLOSED) and value is not None]
    return bool(closed) and min(closed) >= percent


def warn_without_gap(
    student: Sequence[ScoredRollout], teacher: Sequence[ScoredRollout], default_env: str, warn: Warn
) -> None:
    """Warn for each env where the teacher is not better than the student, or not by more than chance explains.

    Chance: the 95 % interval of the difference, problem by problem, of the two mean rewards contains 0.
    """
    by_env = _pairs(student, teacher, default_env)
    if not by_env:
        hint = 'name rewards in the held-out rows, for example "rewards": ["exact"] with metadata.answer'
        warn("teacher.eval_baseline: no held-out row has a reward, so there is no gap to measure", hint)
    for env, pairs in by_env.items():
        gap = mean_estimate([theirs - own for own, theirs in pairs])
        said = f"eval/{env}: the teacher's reward minus the student's is {gap.mean:.3g}"
        if gap.mean <= 0:
            hint = "there is no gap to close: use a better teacher or context, or other rows to evaluate on"
            warn(said, hint)
        elif gap.low is None or gap.low <= 0:
            within = (
                f"[{gap.low:.3g}, {gap.high:.3g}]" if gap.low is not None else "unknown: it is one problem"
            )
            hint = "raise eval.group_size or use more rows, or gap_closed says little"
            warn(f"{said}, no more than chance explains (95 % interval {within})", hint)


def _pairs(
    student: Sequence[ScoredRollout], teacher: Sequence[ScoredRollout], default_env: str
) -> dict[str, list[tuple[float, float]]]:
    """By env, the two mean rewards of each problem that both have."""
    envs = {scored.rollout.prompt.index: scored.rollout.prompt.env or default_env for scored in student}
    own, theirs = problem_rewards(student), problem_rewards(teacher)
    pairs: dict[str, list[tuple[float, float]]] = {}
    for problem in own.keys() & theirs.keys():
        means = sum(own[problem]) / len(own[problem]), sum(theirs[problem]) / len(theirs[problem])
        pairs.setdefault(envs[problem], []).append(means)
    return pairs

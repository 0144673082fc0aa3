"""The figures that a finished run is judged by, from what it wrote down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rnow_core.track.best import over_envs
from rnow_core.train.off_policy import OffPolicyRun
from rnow_core.train.on_policy import OnPolicyRun


def summarise(run: OnPolicyRun, seconds: float) -> dict[str, Any]:
    """`student_before`, `student_after`, `teacher` (held-out mean reward), `teacher_kl_before`, `teacher_kl_after`,
    `gap_closed` (percent), `seconds`, `steps`, the last checkpoint and the `best`, see `RunRecord.best_checkpoint`. A
    figure that was not measured is None.

    Args:
        run: the finished run; it may have ended before its last step.
        seconds: wall time of all its attempts.
    """
    steps = run.record.current_step
    before, after = run.record.evaluations(0), run.record.evaluations(steps)
    last = run.record.checkpoints.latest()
    return {
        "student_before": over_envs(before, "reward/mean"),
        "student_after": over_envs(after, "reward/mean"),
        "teacher": over_envs(before, "baseline_teacher/avg"),
        "gap_closed": over_envs(after, "gap_closed"),
        "teacher_kl_before": over_envs(before, "teacher_kl"),
        "teacher_kl_after": over_envs(after, "teacher_kl"),
        "steps": steps,
        "seconds": round(seconds, 1),
        "checkpoint": str(last.path) if last else None,
        "best": run.record.best_checkpoint(),
    }


def summarise_losses(run: OffPolicyRun, seconds: float) -> dict[str, Any]:
    """`loss_before`, `loss_after` (held-out, nats a token), the same of `bits_per_byte`, `train_loss_first` and
    `train_loss_last` (of the first and last step), `student_before` and `student_after` (mean reward of sampled
    replies), `seconds`, `steps`, the last checkpoint and the `best`. A figure that was not measured is None.

    Args:
        run: the finished run.
        seconds: wall time of all its attempts.
    """
    before, after = run.record.evaluations(0), run.record.evaluations(run.total_steps)
    losses = run.record.history("sft/loss")
    last = run.record.checkpoints.latest()
    return {
        "loss_before": over_envs(before, "loss", "tokens"),
        "loss_after": over_envs(after, "loss", "tokens"),
        "bits_per_byte_before": over_envs(before, "bits_per_byte", "tokens"),
        "bits_per_byte_after": over_envs(after, "bits_per_byte", "tokens"),
        "train_loss_first": losses[0] if losses else None,
        "train_loss_last": losses[-1] if losses else None,
        "student_before": over_envs(before, "reward/mean"),
        "student_after": over_envs(after, "reward/mean"),
        "steps": run.total_steps,
        "seconds": round(seconds, 1),
        "checkpoint": str(last.path) if last else None,
        "best": run.record.best_checkpoint(),
    }


def summarise_stages(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`student_before` of the first stage that measured it, `student_after` and `teacher` of the last; `steps` and
    `seconds` of all; the last checkpoint; and in `stages` the summary of each by its name.
    """
    parts = list(summaries.values())

    def first(key: str, found: Iterable[Mapping[str, Any]]) -> Any:
        return next((part[key] for part in found if part.get(key) is not None), None)

    return {
        "student_before": first("student_before", parts),
        "student_after": first("student_after", reversed(parts)),
        "teacher": first("teacher", reversed(parts)),
        "steps": sum(part["steps"] for part in parts),
        "seconds": round(sum(part["seconds"] for part in parts), 1),
        "checkpoint": parts[-1]["checkpoint"],
        "stages": {
            name: {key: value for key, value in part.items() if key not in ("schema", "run")}
            for name, part in summaries.items()
        },
    }

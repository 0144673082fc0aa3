"""The figures that a finished run is judged by, from what it wrote down."""

from __future__ import annotations

from typing import Any

from rnow_core.track.metrics import Row
from rnow_core.train.off_policy import OffPolicyRun
from rnow_core.train.on_policy import OnPolicyRun


def summarise(run: OnPolicyRun, seconds: float) -> dict[str, Any]:
    """`student_before`, `student_after`, `teacher` (held-out mean reward), `teacher_kl_before`, `teacher_kl_after`,
    `seconds`, `steps` and the last checkpoint. A figure that was not measured is None.

    Args:
        run: the finished run.
        seconds: wall time of all its attempts.
    """
    before, after = run.record.evaluations(0), run.record.evaluations(run.total_steps)
    last = run.record.checkpoints.latest()
    return {
        "student_before": _over_envs(before, "reward/mean"),
        "student_after": _over_envs(after, "reward/mean"),
        "teacher": _over_envs(before, "baseline_teacher/avg"),
        "teacher_kl_before": _over_envs(before, "teacher_kl"),
        "teacher_kl_after": _over_envs(after, "teacher_kl"),
        "steps": run.total_steps,
        "seconds": round(seconds, 1),
        "checkpoint": str(last.path) if last else None,
    }


def summarise_losses(run: OffPolicyRun, seconds: float) -> dict[str, Any]:
    """`loss_before`, `loss_after` (held-out, nats a token), the same of `bits_per_byte`, `train_loss_first` and
    `train_loss_last` (of the first and last step), `seconds`, `steps` and the last checkpoint. A figure that was not
    measured is None.

    Args:
        run: the finished run.
        seconds: wall time of all its attempts.
    """
    before, after = run.record.evaluations(0), run.record.evaluations(run.total_steps)
    losses = run.record.history("sft/loss")
    last = run.record.checkpoints.latest()
    return {
        "loss_before": _over_envs(before, "loss", "tokens"),
        "loss_after": _over_envs(after, "loss", "tokens"),
        "bits_per_byte_before": _over_envs(before, "bits_per_byte", "tokens"),
        "bits_per_byte_after": _over_envs(after, "bits_per_byte", "tokens"),
        "train_loss_first": losses[0] if losses else None,
        "train_loss_last": losses[-1] if losses else None,
        "steps": run.total_steps,
        "seconds": round(seconds, 1),
        "checkpoint": str(last.path) if last else None,
    }


def _over_envs(metrics: Row, name: str, weight: str = "rollouts") -> float | None:
    """Mean over the environments, weighted by their rollouts or tokens; None when no environment has the figure."""
    suffix = f"/{name}"
    envs = [key.removeprefix("eval/").removesuffix(suffix) for key in metrics if key.endswith(suffix)]
    pairs = [(metrics[f"eval/{env}{suffix}"], metrics.get(f"eval/{env}/{weight}", 1.0)) for env in envs]
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None

"""Monitors of what the student samples: pure functions of the rows in metrics.jsonl.

A resumed run has the same rows, cut back to its checkpoint, so that it decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rnow_core.config.stability import StabilityConfig
from rnow_core.track.best import Best, best_of

Row = Mapping[str, Any]
Action = Literal["warn", "stop", "rollback"]

BASELINE_STEPS = 3
"""The first steps, whose mean reply length the later ones are compared with."""
ROLLED_BACK = "rolled_back_to"
LENGTH, RATIO, SHARE_CUT = "tokens/rollout", "length_ratio", "truncated_fraction"
WATCHED = frozenset(
    ("step", LENGTH, RATIO, SHARE_CUT, "repetition", "entropy", "teacher_kl/truncated", "teacher_kl/finished")
) | {ROLLED_BACK}


def watched(row: Row) -> dict[str, float]:
    """What monitors and the choice of the best step read of a row; a figure that is not a number is left out."""
    return {
        name: value
        for name, value in row.items()
        if (name in WATCHED or name.startswith("eval/")) and value is not None and math.isfinite(value)
    }


@dataclass(frozen=True, slots=True)
class Monitor:
    """A figure of a step (None: it has none) and the key of `stability` that bounds it, from below for `lower`."""

    key: str
    says: str
    advice: str
    figure: Callable[[Row], float | None]
    lower: bool = False


def _kl_gap(row: Row) -> float | None:
    cut, finished = row.get("teacher_kl/truncated"), row.get("teacher_kl/finished")
    return None if cut is None or finished is None else abs(cut - finished)


MONITORS = (
    Monitor(
        "truncated",
        "share of replies that were cut",
        "raise rollout.max_tokens, or set rollout.mask_truncated: true",
        lambda row: row.get(SHARE_CUT),
    ),
    Monitor(
        "length_ratio",
        "reply length as a multiple of the first steps'",
        "lower trainer.learning_rate, or set rollout.mask_truncated: true",
        lambda row: row.get(RATIO),
    ),
    Monitor(
        "repetition",
        "share of repeated 8-token sequences",
        "lower trainer.learning_rate; look at the replies in rollouts/",
        lambda row: row.get("repetition"),
    ),
    Monitor(
        "entropy_min",
        "entropy in nats a token",
        "lower trainer.learning_rate, or raise algorithm.student_tau",
        lambda row: row.get("entropy"),
        lower=True,
    ),
    Monitor(
        "kl_gap",
        "distance between teacher_kl of truncated and of finished replies",
        "set rollout.mask_truncated: true",
        _kl_gap,
    ),
)


@dataclass(frozen=True, slots=True)
class Breach:
    """A monitor that was beyond its bound for `steps` steps in a row, and its last figure."""

    monitor: Monitor
    limit: float
    value: float
    steps: int

    def __str__(self) -> str:
        side = "below" if self.monitor.lower else "above"
        return (
            f"{self.monitor.says}: {self.value:.3g}, {side} stability.{self.monitor.key} "
            f"({self.limit:g}) for {self.steps} steps in a row"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the monitors say behind a step, and what is to be done. `best` is what a rollback goes back to."""

    action: Action
    message: str
    hint: str
    best: Best | None = None


def length_ratio(rows: Sequence[Row], metrics: Row) -> dict[str, float]:
    """`length_ratio` of a step: its mean reply length by that of the run's first three steps; of those it has none."""
    first = [row[LENGTH] for row in rows if LENGTH in row][:BASELINE_STEPS]
    baseline = sum(first) / BASELINE_STEPS
    return {RATIO: metrics[LENGTH] / baseline} if len(first) == BASELINE_STEPS and baseline > 0 else {}


def breaches(rows: Sequence[Row], limits: StabilityConfig) -> list[Breach]:
    """The monitors whose last figures were beyond their bounds for `patience` steps, or a multiple of that; warnings
    come at 1, 2, 4, 8, ... times `patience` only.

    Steps are counted from the run's last rollback. One without the figure ends the count.
    """
    found = []
    for monitor in MONITORS:
        limit = getattr(limits, monitor.key)
        if limit is None:
            continue
        figures: list[float] = []
        for row in reversed(rows):
            if ROLLED_BACK in row:
                break
            if SHARE_CUT not in row:
                continue
            value = monitor.figure(row)
            if value is None or not (value < limit if monitor.lower else value > limit):
                break
            figures.append(value)
        times, rest = divmod(len(figures), limits.patience)
        seldom = limits.action != "warn" or times & (times - 1) == 0
        if times and not rest and seldom:
            found.append(Breach(monitor, limit, figures[0], len(figures)))
    return found


def judge(rows: Sequence[Row], step: int, limits: StabilityConfig) -> Verdict | None:
    """What is to be done behind `step`, the last of `rows`; None when all is well.

    A rollback becomes a warning when the evaluation of this very step is the best so far, and a stop when the run was
    rolled back `max_rollbacks` times.
    """
    found = breaches(rows, limits)
    if not found:
        return None
    message = f"step {step}: " + "; ".join(str(breach) for breach in found)
    hint = "; ".join(dict.fromkeys(breach.monitor.advice for breach in found))
    if limits.action != "rollback":
        return Verdict(limits.action, message, hint)
    best = best_of(rows)
    done = sum(ROLLED_BACK in row for row in rows)
    if best is None or best.step == step:
        return Verdict("warn", f"{message}; this student is the best so far, so it is kept", hint)
    if done >= limits.max_rollbacks:
        return Verdict("stop", f"{message}; rolled back {done} times already", hint)
    return Verdict("rollback", message, hint, best)

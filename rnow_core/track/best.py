"""Which evaluated step of a run has the best student."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

JUDGED_BY: Mapping[str, tuple[int, str]] = {
    "reward/mean": (1, "rollouts"),
    "teacher_kl": (-1, "rollouts"),
    "loss": (-1, "tokens"),
}
"""Held-out figures that the best is found by, the first that the run has: more is better (1) or less (-1), and what
environments are weighted by."""


@dataclass(frozen=True, slots=True)
class Best:
    """The step with the best held-out figure so far, which figure that is (without its environment), and its value."""

    step: int
    metric: str
    value: float


def best_of(rows: Iterable[Mapping[str, Any]]) -> Best | None:
    """The best evaluated step in rows of metrics.jsonl; of equals the earliest, None without an evaluation."""
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        figures = {name: value for name, value in row.items() if name.startswith("eval/")}
        if figures:
            steps.setdefault(int(row["step"]), {}).update(figures)
    for metric, (sign, weight) in JUDGED_BY.items():
        found = {step: over_envs(figures, metric, weight) for step, figures in steps.items()}
        known = {step: value for step, value in found.items() if value is not None}
        if known:
            step = max(sorted(known), key=lambda step: sign * known[step])
            return Best(step, metric, known[step])
    return None


def over_envs(metrics: Mapping[str, Any], name: str, weight: str = "rollouts") -> float | None:
    """Mean of `eval/<env>/<name>` over environments, weighted by rollouts or tokens; None where none has it."""
    suffix = f"/{name}"
    envs = [key.removeprefix("eval/").removesuffix(suffix) for key in metrics if key.endswith(suffix)]
    pairs = [(metrics[f"eval/{env}{suffix}"], metrics.get(f"eval/{env}/{weight}", 1.0)) for env in envs]
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None

"""The words and numbers that the plain and the live display share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rnow_core.track.events import Event

STEP_METRICS = {
    "loss": "loss/policy",
    "sft/loss": "sft/loss",
    "teacher_kl": "teacher_kl",
    "reward": "reward/mean",
    "tokens/s": "tokens/per_second",
    "seconds": "time/step",
}
"""What a step shows: column heading -> name of the metric. A metric that a run does not have is left out."""

PACE_STEPS = 10


@dataclass(frozen=True, slots=True)
class StepRow:
    """One finished step: its number and its figures as text, by heading of STEP_METRICS."""

    step: int
    figures: Mapping[str, str]


class Pace:
    """Estimates the time that is left from the mean of the last PACE_STEPS steps."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Take a step's `time/step` into account."""
        seconds = metrics.get(STEP_METRICS["seconds"])
        if isinstance(seconds, int | float):
            self._seconds = [*self._seconds, float(seconds)][-PACE_STEPS:]

    def left(self, steps: int) -> str:
        """The time for `steps` more steps, as text; empty when unknown."""
        if not self._seconds or steps < 0:
            return ""
        return duration(steps * sum(self._seconds) / len(self._seconds))


def step_row(event: Event) -> StepRow:
    """The figures of a `step` event."""
    metrics = event.fields["metrics"]
    figures = {
        head: number(metrics[name]) for head, name in STEP_METRICS.items() if metrics.get(name) is not None
    }
    return StepRow(int(event.fields["step"]), figures)


def number(value: object) -> str:
    """Four significant digits, thousands separated; text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """`0:42`, `12:05`, `3:07:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested data as (dotted key, text) pairs, in order; nothing for values that are None."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(number(item) for item in value)
        elif value is not None:
            yield f"{prefix}{key}", number(value)


def table(data: Mapping[str, Any]) -> list[str]:
    """Two aligned columns: key and value."""
    pairs = list(flat(data))
    width = max((len(key) for key, _ in pairs), default=0)
    return [f"  {key.ljust(width)}  {value}" for key, value in pairs]


def figures(data: Mapping[str, Any]) -> str:
    """`key value` pairs on one line."""
    return "  ".join(f"{key} {value}" for key, value in flat(data))

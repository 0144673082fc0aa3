"""The section that says when a run has gone wrong, and what happens then."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rnow_core.config.section import Count, Section


class StabilityConfig(Section):
    """Monitors of what the student samples. null switches one off."""

    truncated: float | None = Field(
        default=0.5, gt=0, lt=1, description="Highest share of a step's replies that may be cut."
    )
    length_ratio: float | None = Field(
        default=3.0,
        gt=1,
        description="Highest mean reply length of a step, as a multiple of that of the run's first three steps.",
    )
    repetition: float | None = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Highest share of 8-token sequences that occurred before in the same reply.",
    )
    entropy_min: float | None = Field(
        default=0.02, gt=0, description="Lowest mean entropy of the student, in nats a token."
    )
    kl_gap: float | None = Field(
        default=None,
        gt=0,
        description="Highest distance between teacher_kl of truncated and of finished replies, in nats a token.",
    )
    patience: Count = Field(default=3, description="Steps in a row beyond a bound before something happens.")
    action: Literal["warn", "stop", "rollback"] = Field(
        default="warn",
        description="warn = say so; stop = save and end the run; rollback = go on from the best checkpoint.",
    )
    max_rollbacks: Count = Field(
        default=2, description="Rollbacks of a run; where one more is due, the run stops."
    )

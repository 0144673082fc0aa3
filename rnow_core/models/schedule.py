"""The learning rate of a step, as a pure function: resuming needs no scheduler state."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate(step: int, peak: float, schedule: Schedule, warmup_steps: int, total_steps: int) -> float:
    """The rate for `step` (from 1 to `total_steps`).

    Rises linearly over the first `warmup_steps` steps and reaches `peak` on the last of them. Then
    `constant` stays, `linear` and `cosine` fall so that the step after the last one would be 0.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    done = (step - 1 - warmup_steps) / max(1, total_steps - warmup_steps)
    done = min(max(done, 0.0), 1.0)
    return peak * (1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done)))

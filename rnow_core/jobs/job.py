"""What `rnow run` needs of a kind of training, and what each kind is made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rnow_core.build.engine import Progress
from rnow_core.build.fixed import Fixed
from rnow_core.models.seams import Learner
from rnow_core.preflight.report import Project
from rnow_core.stop import StopSignal
from rnow_core.track.checkpoints import Checkpoint
from rnow_core.track.events import Emit, Event
from rnow_core.train.record import RunRecord

TELL_EVERY = 10.0


@dataclass(frozen=True)
class Ingredients:
    """A checked project, its run folder, and where the run stands: `checkpoint` is None before the first step."""

    project: Project
    fixed: Fixed
    record: RunRecord
    total_steps: int
    checkpoint: Checkpoint | None
    stop: StopSignal

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.record.folder.path


class Job(Protocol):
    """A run whose models are loaded."""

    @property
    def learner(self) -> Learner:
        """What is trained."""
        ...

    async def start(self, begun: int) -> None:
        """Make everything ready, behind the step `begun` (0: write checkpoint 0 and measure before)."""
        ...

    async def train(self, first_step: int) -> None:
        """Train to the end."""
        ...

    async def close(self) -> None:
        """Free everything, whatever state it is in."""
        ...

    def summary(self, seconds: float) -> dict[str, Any]:
        """The figures of the finished run; `seconds` of all its attempts."""
        ...


def told_seldom(emit: Emit) -> Progress:
    """Progress as events, one of a subject every ten seconds."""
    told: dict[str, float] = {}

    def progress(seconds: float, message: str) -> None:
        subject = message.split(":")[0]
        if seconds - told.get(subject, -TELL_EVERY) >= TELL_EVERY:
            told[subject] = seconds
            emit(Event("progress", {"seconds": round(seconds, 1), "message": message}))

    return progress

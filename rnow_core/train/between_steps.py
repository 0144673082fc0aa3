"""What every loop does between two steps: stop when asked to, and see what is due."""

from __future__ import annotations

from typing import Protocol

from safetensors import SafetensorError

from rnow_core.errors import Interrupted, RunFailed
from rnow_core.models.seams import Learner
from rnow_core.stop import StopSignal
from rnow_core.track.checkpoints import Checkpoint
from rnow_core.train.record import RunRecord


class Running(Protocol):
    """What the loops have in common."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        ...

    @property
    def learner(self) -> Learner:
        """Holds what is saved."""
        ...

    @property
    def record(self) -> RunRecord:
        """Where it is saved."""
        ...

    @property
    def stop(self) -> StopSignal:
        """Whether the user wants to stop."""
        ...


def stop_if_requested(run: Running, step: int) -> None:
    """Save after `step` and leave, when the user wants to stop.

    Raises:
        Interrupted: naming the command that goes on.
    """
    if run.stop.requested:
        run.record.save(step, run.learner)
        raise Interrupted(
            f"stopped after step {step} of {run.total_steps}", "continue with: rnow run --resume"
        )


def due(step: int, every: int | None) -> bool:
    """Whether something that happens every so many steps (None or -1: never) happens after `step`."""
    return every is not None and every > 0 and step % every == 0


def load_checkpoint(learner: Learner, checkpoint: Checkpoint, step: int | None = None) -> None:
    """Restore weights and optimizer; with `step` in the place of those behind it.

    Raises:
        RunFailed: naming a checkpoint that is damaged.
    """
    try:
        learner.load(checkpoint.path, step)
    except (OSError, SafetensorError) as error:
        raise RunFailed(
            f"{checkpoint.path} is damaged: {error}",
            "remove that folder to go on from the checkpoint before it",
        ) from error

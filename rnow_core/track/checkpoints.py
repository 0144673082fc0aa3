"""Checkpoints `checkpoints/step_000050/`: complete or invisible.

The folder holds what the learner writes (adapter, optimizer) and `state.json` with the step and the places to
go on from: data cursor, metric offset. All are kept, but those that were made only because no earlier student had been
as good, and have been surpassed. Standard library only.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.errors import RunFailed
from rnow_core.track.atomic import folder_bytes, link_atomic, temporary, write_folder_atomic
from rnow_core.track.diskerrors import disk_errors
from rnow_core.track.jsonable import dumps
from rnow_core.track.run_folder import read_json

STATE_FILE = "state.json"
SCHEMA = 1
REPLACEABLE = "replaceable"
"""Key of `state.json` of a checkpoint that was made only for being the best so far."""
_NAME = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint: its folder, its step and what was given to `save` as state."""

    path: Path
    step: int
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, write: Callable[[Path], None], state: Mapping[str, Any]) -> Checkpoint:
        """Make the checkpoint of `step`; a complete one of that step is kept as it is.

        Args:
            step: optimizer steps done; 0 is the state before the first.
            write: fills an existing empty folder.
            state: JSON-ready; `step` and `schema` are added.

        Raises:
            RunFailed: the disk did not take it; earlier checkpoints are untouched.
        """
        path = self.folder / f"step_{step:06d}"
        existing = _read(path)
        if existing is not None:
            return existing
        content = {"schema": SCHEMA, "step": step, **state}

        def fill(folder: Path) -> None:
            write(folder)
            (folder / STATE_FILE).write_text(dumps(content, indent=2), encoding="utf-8")

        write_folder_atomic(path, fill, expected=self._last_size())
        return Checkpoint(path, step, content)

    def set_best(self, step: int, link: Path) -> None:
        """Point `link` at the checkpoint of `step`, then remove the replaceable ones before it.

        Raises:
            RunFailed: there is no such checkpoint, or the disk did not take it.
        """
        link_atomic(link, self.load(step).path)
        for other in self.all():
            if other.step < step and other.state.get(REPLACEABLE):
                with disk_errors(other.path):
                    gone = other.path.rename(temporary(other.path))
                    shutil.rmtree(gone, ignore_errors=True)

    def all(self) -> list[Checkpoint]:
        """Every complete checkpoint, by step; anything else in the folder is ignored."""
        found = [_read(path) for path in self.folder.glob("step_*")]
        return sorted((item for item in found if item is not None), key=lambda item: item.step)

    def latest(self) -> Checkpoint | None:
        """The complete checkpoint with the highest step, or None."""
        return max(self.all(), key=lambda item: item.step, default=None)

    def load(self, step: int) -> Checkpoint:
        """The complete checkpoint of `step`.

        Raises:
            RunFailed: there is none; the message lists those that exist.
        """
        checkpoint = _read(self.folder / f"step_{step:06d}")
        if checkpoint is None:
            steps = ", ".join(str(item.step) for item in self.all()) or "none"
            raise RunFailed(
                f"{self.folder}: no complete checkpoint of step {step}", f"complete steps: {steps}"
            )
        return checkpoint

    def _last_size(self) -> int:
        last = self.latest()
        return folder_bytes(last.path) if last else 0


def _read(path: Path) -> Checkpoint | None:
    """None for whatever is not a complete checkpoint."""
    match = _NAME.fullmatch(path.name)
    state = read_json(path / STATE_FILE) if match else None
    if match is None or state is None or state.get("step") != int(match.group(1)):
        return None
    return Checkpoint(path, int(match.group(1)), state)

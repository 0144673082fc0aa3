"""What a stage starts from: the adapter, or with full fine-tuning the weights, that the one before ended with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rnow_core.build.fixed import model_path
from rnow_core.config.schema import Config
from rnow_core.data.hub import text_files
from rnow_core.errors import RunFailed
from rnow_core.track.atomic import write_folder_atomic
from rnow_core.track.checkpoints import Checkpoints

WEIGHTS = "weights"
"""Folder of a stage with its result as a whole model."""

NOT_OF_A_MODEL = ("optimizer.safetensors", "state.json")
"""Files of a checkpoint that a loader of the folder's weights must not meet."""


def starting_from(config: Config, stage: Path, project_dir: Path) -> Config:
    """`config` with the result of a finished `stage` (its folder) as the student's adapter or weights.

    Raises:
        RunFailed: the stage has no checkpoint.
    """
    checkpoint = Checkpoints(stage / "checkpoints").latest()
    if checkpoint is None:
        raise RunFailed(f"{stage}: this stage has finished and has no checkpoint", "start a new run")
    if config.model.qlora_rank:
        changed: dict[str, Any] = {"adapter": _inside(checkpoint.path, project_dir)}
    else:
        _make_model(stage / WEIGHTS, checkpoint.path, model_path(config.model.path, project_dir))
        changed = {"path": _inside(stage / WEIGHTS, project_dir)}
    return config.model_copy(update={"model": config.model.model_copy(update=changed)})


def _inside(path: Path, project_dir: Path) -> str:
    """`./runs/...`, as config.yml would name it: a project may be moved."""
    return "./" + path.resolve().relative_to(project_dir.resolve()).as_posix()


def _make_model(folder: Path, checkpoint: Path, student: str) -> None:
    """A folder that loads like any model: the checkpoint's weights, and the text files of the `student`."""
    if folder.is_dir():
        return

    def fill(made: Path) -> None:
        for file in text_files(student):
            shutil.copy(file, made)
        for file in checkpoint.iterdir():
            if file.name not in NOT_OF_A_MODEL:
                _share(file, made / file.name)

    write_folder_atomic(folder, fill)


def _share(file: Path, into: Path) -> None:
    """A second name for the file: weights are large. A copy where the disk has no such thing."""
    try:
        os.link(file, into)
    except OSError:
        shutil.copy(file, into)

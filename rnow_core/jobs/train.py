"""`rnow run`: check, build, prove, train, sum up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rnow_core.jobs.attempt import run_to_end
from rnow_core.jobs.setup import Wanted, open_unfinished, prepare_new, prepare_resumed
from rnow_core.jobs.stages import new_staged_run, resumed_staged_run, run_stages
from rnow_core.preflight.check import check_project
from rnow_core.stop import StopSignal
from rnow_core.track.events import Emit


def train(
    project_dir: Path,
    *,
    overrides: Sequence[str],
    name: str | None,
    resume: bool,
    emit: Emit,
    stop: StopSignal,
) -> dict[str, Any]:
    """Run a project, or all its stages, from the first or the next step to the end.

    Args:
        project_dir: folder with config.yml.
        overrides: `key.path=value` from the command line.
        name: the run's name; None for the next free one, or with `resume` the latest unfinished one.
        resume: continue a run with the settings that it was started with.
        emit: receives the events.
        stop: asked after each step whether the user wants to stop.

    Returns:
        The content of summary.json.

    Raises:
        FindingsError: the project has errors; nothing was written.
        Interrupted: stopped after a step, which is saved.
        RnowError: whatever else a user can act on.
    """
    wanted = Wanted(project_dir, overrides, name, emit, stop)
    if resume:
        folder, stored = open_unfinished(wanted)
        if "stages" in stored:
            return run_stages(resumed_staged_run(wanted, folder, stored))
        return run_to_end(lambda: prepare_resumed(wanted, folder, stored))
    report = check_project(project_dir, overrides)
    if report.stages:
        return run_stages(new_staged_run(wanted, report))
    return run_to_end(lambda: prepare_new(wanted, report))

"""`rnow run`: check, build, prove, train, sum up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rnow_core.errors import Interrupted, RnowError
from rnow_core.jobs.setup import Setup, Wanted, prepare_new, prepare_resumed
from rnow_core.stop import StopSignal
from rnow_core.track.events import Emit, Event
from rnow_core.track.summary import write_summary


def train(
    project_dir: Path,
    *,
    overrides: Sequence[str],
    name: str | None,
    resume: bool,
    emit: Emit,
    stop: StopSignal,
) -> dict[str, Any]:
    """Run a project from its first or its next step to the end.

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
    started = time.perf_counter()
    wanted = Wanted(project_dir, overrides, name, emit, stop)
    setup = prepare_resumed(wanted) if resume else prepare_new(wanted)
    record = setup.record
    try:
        return asyncio.run(_run(setup, started))
    except BaseException as error:
        _write_failure(setup, error)
        raise
    finally:
        record.close()


async def _run(setup: Setup, started: float) -> dict[str, Any]:
    """Everything behind the models being loaded."""
    job, record = setup.job, setup.record
    earlier = record.seconds()
    try:
        await job.start(setup.begun)
        await job.train(setup.begun + 1)
    finally:
        await job.close()
    summary = job.summary(earlier + time.perf_counter() - started)
    write_summary(record.folder, summary)
    record.folder.write_status("finished", setup.total_steps, setup.total_steps)
    record.emit(Event("run_finished", {"step": setup.total_steps, "summary": summary}))
    return summary


def _write_failure(setup: Setup, error: BaseException) -> None:
    """Leave the reason in status.json and tell it, without hiding it behind a second error."""
    record = setup.record
    interrupted = isinstance(error, Interrupted | KeyboardInterrupt | asyncio.CancelledError)
    message = error.message if isinstance(error, RnowError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, RnowError) else ""
    step, total = record.current_step, setup.total_steps
    with suppress(RnowError):  # a full disk: the error that is on its way already says so
        record.folder.write_status("interrupted" if interrupted else "failed", step, total, error=message)
    fields = {"step": step, "message": message, "hint": hint}
    record.emit(Event("run_interrupted" if interrupted else "run_failed", fields))

"""One run, or one stage, from its models being loaded to its summary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rnow_core.errors import Interrupted, RnowError
from rnow_core.jobs.setup import Setup
from rnow_core.track.events import Event
from rnow_core.track.run_folder import State
from rnow_core.track.summary import write_summary


def run_to_end(prepare: Callable[[], Setup]) -> dict[str, Any]:
    """Prepare, train, sum up; the run's folder says how it ended, whatever happens.

    Returns:
        The content of summary.json.
    """
    started = time.perf_counter()
    setup = prepare()
    try:
        return asyncio.run(_run(setup, started))
    except BaseException as error:
        _write_failure(setup, error)
        raise
    finally:
        setup.record.close()


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
    record.folder.write_status("finished", record.current_step, setup.total_steps)
    record.emit(Event("run_finished", {"step": record.current_step, "summary": summary}))
    return summary


def _write_failure(setup: Setup, error: BaseException) -> None:
    """Leave the reason in status.json and tell it, without hiding it behind a second error."""
    record = setup.record
    step, total = record.current_step, setup.total_steps
    state, message = ending(error)
    with suppress(RnowError):  # a full disk: the error that is on its way already says so
        record.folder.write_status(state, step, total, error=message)
    record.emit(ended_event(error, step))


def ending(error: BaseException) -> tuple[State, str]:
    """How a run that this error ends is called in status.json, and why."""
    interrupted = isinstance(error, Interrupted | KeyboardInterrupt | asyncio.CancelledError)
    message = error.message if isinstance(error, RnowError) else f"{type(error).__name__}: {error}"
    return "interrupted" if interrupted else "failed", message


def ended_event(error: BaseException, step: int) -> Event:
    """`run_interrupted` or `run_failed`."""
    state, message = ending(error)
    hint = error.hint if isinstance(error, RnowError) else ""
    fields = {"step": step, "message": message, "hint": hint}
    return Event("run_interrupted" if state == "interrupted" else "run_failed", fields)

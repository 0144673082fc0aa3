"""`rnow run`: check, build, prove, train, sum up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rnow_core.build.engine import Progress
from rnow_core.errors import Interrupted, RnowError
from rnow_core.jobs.setup import Setup, Wanted, prepare_new, prepare_resumed
from rnow_core.jobs.summary import summarise
from rnow_core.preflight.selfcheck import require, self_check, tolerances
from rnow_core.stop import StopSignal
from rnow_core.track.events import Emit, Event
from rnow_core.track.summary import write_summary
from rnow_core.train.on_policy import evaluate_baseline, evaluate_student, stop_if_requested, train_on_policy

TELL_EVERY = 10.0


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
    record = setup.run.record
    try:
        return asyncio.run(_run(setup, started))
    except BaseException as error:
        _write_failure(setup, error)
        raise
    finally:
        record.close()


async def _run(setup: Setup, started: float) -> dict[str, Any]:
    """Everything behind the models being loaded."""
    run, record = setup.run, setup.run.record
    earlier = record.seconds()
    try:
        first_step = await _start(setup)
        await train_on_policy(run, first_step)
    finally:
        await setup.rewards.close()
        await setup.built.close()
    summary = summarise(run, earlier + time.perf_counter() - started)
    write_summary(record.folder, summary)
    record.folder.write_status("finished", run.total_steps, run.total_steps)
    record.emit(Event("run_finished", {"step": run.total_steps, "summary": summary}))
    return summary


async def _start(setup: Setup) -> int:
    """Prove the parts, write checkpoint 0, measure before; the first step to train."""
    run, step = setup.run, setup.checkpoint.step if setup.checkpoint else 0
    evaluated = run.evaluation.prompts if run.evaluation else ()
    await setup.built.tools.start([*run.prompts.prompts, *evaluated])
    await setup.built.engine.start(run.learner, _tell(run.record.emit))
    await _prove(setup)
    run.record.folder.write_status("running", step, run.total_steps)
    if setup.checkpoint is None:
        run.record.save(0, run.learner)
    if run.evaluation and step == 0:
        stop_if_requested(run, 0)
        await evaluate_student(run, run.evaluation, 0)
        await evaluate_baseline(run, run.evaluation)
    return step + 1


async def _prove(setup: Setup) -> None:
    """The self-checks on the real weights; each is told, a failed one stops the run."""
    run, built = setup.run, setup.built
    results = await self_check(
        run.prompts.batch(1),
        run.parts,
        lambda requests: built.device.run(built.learner.logprobs, requests),
        built.engine.student_as_teacher,
        tolerances(half_precision=built.half_precision, served=run.adapters is not None),
        built.engine.student_here,
    )
    for result in results:
        run.record.emit(Event("check", asdict(result)))
    require(results)
    run.record.clock.take()


def _tell(emit: Emit) -> Progress:
    """Progress as events, one every ten seconds."""
    told: dict[str, float] = {}

    def progress(seconds: float, message: str) -> None:
        subject = message.split(":")[0]
        if seconds - told.get(subject, -TELL_EVERY) >= TELL_EVERY:
            told[subject] = seconds
            emit(Event("progress", {"seconds": round(seconds, 1), "message": message}))

    return progress


def _write_failure(setup: Setup, error: BaseException) -> None:
    """Leave the reason in status.json and tell it, without hiding it behind a second error."""
    record = setup.run.record
    interrupted = isinstance(error, Interrupted | KeyboardInterrupt | asyncio.CancelledError)
    message = error.message if isinstance(error, RnowError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, RnowError) else ""
    step, total = record.current_step, setup.run.total_steps
    with suppress(RnowError):  # a full disk: the error that is on its way already says so
        record.folder.write_status("interrupted" if interrupted else "failed", step, total, error=message)
    fields = {"step": step, "message": message, "hint": hint}
    record.emit(Event("run_interrupted" if interrupted else "run_failed", fields))

"""`rnow run` with a scripted engine: the command line, displays and signal handling are the real ones.

python scripted_run.py SCENARIO ARGS... runs `rnow ARGS` with `rnow_core.jobs.train.train` replaced.
"""

import sys
import time
import types
from pathlib import Path

from rnow_core.errors import Finding, FindingsError, Interrupted, RunFailed
from rnow_core.track.events import Event

STEPS = 14


def metrics(step):
    return {
        "loss/policy": 1 / step,
        "teacher_kl": 0.5 / step,
        "reward/mean": 0.25,
        "tokens/per_second": 1234.4,
        "time/step": 2.0,
        "entropy": 0.1,
    }


def start(project_dir, emit):
    path = Path(project_dir) / "runs" / "run-001"
    changes = [{"path": "trainer.learning_rate", "old": 0.0001, "new": 0.001}]
    emit(
        Event("run_started", {"run": "run-001", "path": str(path), "total_steps": STEPS, "changes": changes})
    )
    emit(Event("check", {"name": "teacher = student", "passed": True, "value": 1e-6, "limit": 1e-4}))


def finish(project_dir, emit):
    for step in range(1, STEPS + 1):
        emit(Event("step", {"step": step, "total_steps": STEPS, "metrics": metrics(step)}))
        if step == 7:
            emit(Event("warning", {"message": "the disk is nearly full", "hint": "free some space"}))
            emit(Event("eval", {"step": 7, "metrics": {"accuracy": 0.61803, "nan": float("nan")}}))
    emit(Event("checkpoint", {"step": STEPS, "path": f"{project_dir}/runs/run-001/checkpoints/step_000014"}))
    emit(Event("run_finished", {"step": STEPS, "summary": {"student_after": 0.91, "seconds": 12}}))


def complete(project_dir, *, overrides, name, resume, emit, stop):
    start(project_dir, emit)
    finish(project_dir, emit)
    return {}


def crashing(project_dir, *, overrides, name, resume, emit, stop):
    start(project_dir, emit)
    raise ZeroDivisionError("division by zero")


def failing(project_dir, *, overrides, name, resume, emit, stop):
    start(project_dir, emit)
    raise RunFailed("teacher and student disagree", "check teacher.path")


def findings(project_dir, *, overrides, name, resume, emit, stop):
    raise FindingsError(
        [Finding("RN101", "error", "unknown key", "did you mean seed?", "config.yml", 2, 3, "a.sed")]
    )


def stoppable(project_dir, *, overrides, name, resume, emit, stop):
    start(project_dir, emit)
    emit(Event("step", {"step": 1, "total_steps": STEPS, "metrics": metrics(1)}))
    while not stop.requested:
        time.sleep(0.01)
    emit(Event("checkpoint", {"step": 1, "path": f"{project_dir}/runs/run-001/checkpoints/step_000001"}))
    raise Interrupted("Stopped after step 1.", "Go on with: rnow run --resume")


def stubborn(project_dir, *, overrides, name, resume, emit, stop):
    start(project_dir, emit)
    emit(Event("step", {"step": 1, "total_steps": STEPS, "metrics": metrics(1)}))
    while True:
        time.sleep(0.01)


def echo(project_dir, *, overrides, name, resume, emit, stop):
    asked = {"dir": str(project_dir), "overrides": overrides, "name": name, "resume": resume}
    emit(Event("run_finished", {"step": 0, "summary": asked}))
    return {}


if __name__ == "__main__":
    engine = types.ModuleType("rnow_core.jobs.train")
    engine.train = globals()[sys.argv[1]]
    sys.modules[engine.__name__] = engine
    from rnow.guard import guarded

    sys.exit(guarded(sys.argv[2:]))

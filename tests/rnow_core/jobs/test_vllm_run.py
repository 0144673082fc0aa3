"""Whole runs behind real vLLM servers: they start, survive a kill, agree with the learner, and leave nothing."""

import os
import signal
from pathlib import Path

import pytest
from tiny import make_project

from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


def processes_with(text: str) -> list[int]:
    """Ids of running processes whose command line holds the text."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if folder.name.isdigit() and text in command and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def test_a_run_survives_the_death_of_its_student_server(tmp_path):
    """One run with two managed servers; the student's is killed between two steps and the run goes on."""
    pytest.importorskip("vllm")
    project = make_project(
        tmp_path,
        rollout={"engine": "vllm", "max_tokens": 8},
        trainer={"learning_rate": 0.05, "max_steps": 3, "save_step": 1},
        teacher={"path": "./teacher", "eval_baseline": True},
    )
    events = []

    def emit(event):
        events.append(event)
        if event.kind == "step" and event.fields["step"] == 1:
            killed = processes_with(str(project / "student"))
            assert killed
            for pid in killed:
                if "guard" not in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                    os.kill(pid, signal.SIGKILL)

    summary = train(project, overrides=[], name="served", resume=False, emit=emit, stop=StopSignal())
    steps = [event.fields["metrics"] for event in events if event.kind == "step"]
    assert [metrics["tokens/trained"] > 0 for metrics in steps] == [True] * 3
    # A rollout from old weights, or a wrong slice, would show here at once: the learning rate is large.
    assert all(metrics["mismatch_kl"] < 1e-4 for metrics in steps)
    assert all(event.fields["passed"] for event in events if event.kind == "check")
    assert summary["teacher"] is not None
    log = (project / "runs" / "served" / "logs" / "student-server.log").read_text()
    assert log.count("--- start") == 2
    assert processes_with(str(tmp_path)) == []

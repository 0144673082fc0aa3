"""Whole runs with several trainer ranks: started by rank 0, and by torchrun; one killed; what they leave."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny import make_project

from rnow_core.jobs.train import train
from rnow_core.models.adapter import WEIGHTS
from rnow_core.models.guardian import descendants
from rnow_core.stop import StopSignal

STEPS = 3
RANKS = "resources.trainer_data_parallel=2"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def project_in(folder: Path) -> Path:
    return make_project(folder, trainer={"max_steps": STEPS, "save_step": -1, "learning_rate": 0.01})


def adapter(project: Path, name: str) -> bytes:
    return (project / "runs" / name / "checkpoints" / f"step_{STEPS:06d}" / WEIGHTS).read_bytes()


def run_here(project: Path, name: str, *overrides: str) -> None:
    train(
        project,
        overrides=overrides,
        name=name,
        resume=False,
        emit=lambda event: None,
        stop=StopSignal(),
    )


def start(project: Path, name: str, launcher: list[str], *overrides: str) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "rnow", "run", "--dir", str(project), "--name", name]
    return subprocess.Popen(
        [*command, *overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_ranks_train_what_one_trains_whoever_starts_them(tmp_path):
    project = project_in(tmp_path)
    run_here(project, "one")
    run_here(project, "two", RANKS)
    one, two = (
        load_file(project / "runs" / name / "checkpoints" / f"step_{STEPS:06d}" / WEIGHTS)
        for name in ("one", "two")
    )
    assert max(weight.abs().max() for weight in one.values()) > 0.01
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)
    assert "trainer-rank-1.log" in {log.name for log in (project / "runs" / "two" / "logs").iterdir()}

    process = start(project, "launched", TORCHRUN, RANKS)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert adapter(project, "launched") == adapter(project, "two")
    rows = [json.loads(line) for line in (project / "runs" / "launched" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows if "loss/policy" in row] == list(range(1, STEPS + 1))


def test_a_run_that_is_killed_leaves_no_rank(tmp_path):
    project = make_project(tmp_path, trainer={"max_steps": 500, "save_step": -1})
    process = start(project, "killed", [], RANKS, "trainer.num_epochs=500")
    deadline = time.monotonic() + 300
    metrics = project / "runs" / "killed" / "metrics.jsonl"
    while not (metrics.exists() and "loss/policy" in metrics.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    below = [Path(f"/proc/{pid}") for pid in descendants(process.pid)]
    assert any(b"rnow_core.jobs.rank" in (folder / "cmdline").read_bytes() for folder in below)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    while any(folder.exists() for folder in below):
        assert time.monotonic() < deadline
        time.sleep(0.05)

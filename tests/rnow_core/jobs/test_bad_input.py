"""What goes wrong around a run ends in one clear error, and nothing that was saved is lost."""

import json
import math
import resource
import select
import shutil
import signal
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file
from tiny import make_project, row, write_config, write_rows

from rnow_core.errors import (
    EnvironmentMissing,
    FindingsError,
    RnowError,
    RunFailed,
    UsageError,
    WouldOverwrite,
)
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.checkpoints import Checkpoints

FILE_LIMIT = 15_000
"""Bytes: more than any file of the tiny run but the optimizer's state, which is empty at step 0."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("pristine") / "project", trainer={"max_steps": 3})
    write_rows(folder / "train.jsonl", [row(f"{i}+{i}=?", rewards=None) for i in range(12)])
    write_rows(folder / "val.jsonl", [row(f"{i}+1=?", rewards=None) for i in range(100, 103)])
    return folder


@pytest.fixture
def project(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "project")


def start(project, name="one", *, resume=False, overrides=(), emit=lambda event: None, stop=None):
    return train(
        project, overrides=list(overrides), name=name, resume=resume, emit=emit, stop=stop or StopSignal()
    )


def stop_after(step):
    """An emit and a stop signal that end a run behind this step."""
    stop = StopSignal()

    def emit(event):
        if event.kind == "step" and event.fields["step"] == step:
            stop.request()

    return {"emit": emit, "stop": stop}


def stopped(project, step=1):
    """A run that was stopped behind a step."""
    with pytest.raises(RnowError) as error:
        start(project, **stop_after(step))
    assert error.value.exit_code == 130
    return project / "runs" / "one"


def saved_steps(run):
    return [checkpoint.step for checkpoint in Checkpoints(run / "checkpoints").all()]


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(project, *arguments, **options):
    """`rnow run --json` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "rnow", "run", "--json", *arguments],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_errors_of_the_project_are_raised_before_anything_is_written(project):
    (project / "train.jsonl").write_text('{"messages": []}\n{\n')
    with pytest.raises(FindingsError) as error:
        start(project)
    assert [(f.file, f.line) for f in error.value.findings] == [("train.jsonl", 1), ("train.jsonl", 2)]
    assert error.value.exit_code == 1
    assert not (project / "runs").exists()


def test_a_run_that_exists_is_not_touched(project):
    run = stopped(project)
    before = snapshot(run)
    with pytest.raises(WouldOverwrite) as error:
        start(project)
    assert error.value.exit_code == 4
    assert str(run) in error.value.message
    assert "--resume --name one" in error.value.hint
    assert snapshot(run) == before


@pytest.mark.parametrize("name", [None, "nowhere"])
def test_nothing_to_resume(project, name):
    with pytest.raises(UsageError) as error:
        start(project, name, resume=True)
    assert error.value.exit_code == 2
    assert error.value.hint
    assert not (project / "runs" / "nowhere").exists()


def test_a_finished_run_cannot_be_resumed(project):
    start(project)
    before = snapshot(project / "runs" / "one")
    with pytest.raises(UsageError, match="finished"):
        start(project, resume=True)
    assert snapshot(project / "runs" / "one") == before


def test_overrides_at_a_resume_are_refused(project):
    stopped(project)
    with pytest.raises(UsageError, match=r"trainer\.max_steps=9"):
        start(project, resume=True, overrides=["trainer.max_steps=9"])
    assert start(project, resume=True)["steps"] == 3


@pytest.mark.parametrize("file", ["train.jsonl", "val.jsonl"])
def test_changed_data_at_a_resume(project, file):
    run = stopped(project)
    original = (project / file).read_bytes()
    (project / file).write_bytes(original + b'{"messages": [{"role": "user", "content": "new"}]}\n')
    with pytest.raises(RunFailed, match=f"{file} changed") as error:
        start(project, resume=True)
    assert "restore the file" in error.value.hint
    assert saved_steps(run) == [0, 1]
    (project / file).write_bytes(original)
    assert start(project, resume=True)["steps"] == 3


def test_a_resumed_run_keeps_its_own_config(project):
    run = stopped(project)
    write_config(project, trainer={"max_steps": 9})
    assert start(project, resume=True)["steps"] == 3
    assert saved_steps(run) == [0, 1, 2, 3]


def test_a_stored_config_that_cannot_be_read(project):
    run = stopped(project)
    (run / "config.json").write_text("{")
    with pytest.raises(RnowError, match=r"config\.json"):
        start(project, resume=True)


def test_a_damaged_checkpoint_is_named_and_can_be_removed(project):
    run = stopped(project)
    file = run / "checkpoints" / "step_000001" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(RunFailed, match="step_000001 is damaged") as error:
        start(project, resume=True)
    assert "remove that folder" in error.value.hint
    shutil.rmtree(file.parent)
    assert start(project, resume=True)["steps"] == 3


def test_broken_weights_of_a_teacher_stop_before_the_first_step(project):
    file = project / "teacher" / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).fill_(math.nan)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(RnowError, match=r"teacher: .*(nan|not finite)"):
        start(project)
    assert saved_steps(project / "runs" / "one") == []
    status = json.loads((project / "runs" / "one" / "status.json").read_text())
    assert status["state"] == "failed"


def test_a_reward_that_always_fails_stops_with_the_commonest_cause(project):
    write_rows(project / "train.jsonl", [row(f"{i}+{i}=?") for i in range(4)])
    (project / "rewards.py").write_text(
        "from rnow import reward\n\n\n@reward\ndef short(args, messages):\n    raise ValueError('no verdict')\n"
    )
    with pytest.raises(RunFailed) as error:
        start(project)
    assert "less than half of its 8 rollouts succeeded" in error.value.message
    assert "raised ValueError: no verdict (rewards.py:6)" in error.value.message
    assert "--resume" in error.value.hint
    assert saved_steps(project / "runs" / "one") == [0]


def test_rewards_that_fail_now_and_then_are_counted(project):
    write_rows(project / "train.jsonl", [row(f"{i}+{i}=?") for i in range(1, 5)])
    (project / "rewards.py").write_text(
        "from rnow import reward\n\n\n@reward\ndef short(args, messages):\n"
        "    return 1.0 if messages[0]['content'] != '3+3=?' else None\n"
    )
    lost = []

    def emit(event):
        lost.extend([event.fields["metrics"]["rollouts/failed"]] if event.kind == "step" else [])

    start(project, emit=emit, overrides=["trainer.num_epochs=3"])
    assert lost == [2, 2, 2]


def test_missing_wandb_is_named_before_the_first_step(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(EnvironmentMissing) as error:
        start(project, overrides=["logging.wandb_project=tests"])
    assert error.value.exit_code == 3
    assert "rnow-distill[wandb]" in error.value.hint


def test_a_full_disk_while_saving(project):
    """A file size limit stands for the disk: the first checkpoint fits, the optimizer's state of the next does not."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))

    process = command(project, "--name", "one", preexec_fn=limit)
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in said + complaints
    lines = [json.loads(line) for line in said.splitlines()]
    (error,) = [line["error"] for line in lines if "error" in line]
    run = project / "runs" / "one"
    assert error["type"] == "DiskFailed"
    assert str(run / "checkpoints" / "step_000001") in str(project / error["message"].partition(": ")[0])
    assert "needs at least" in error["message"]
    assert "rnow run --resume" in error["hint"]
    assert saved_steps(run) == [0]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_000000"]
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert start(project, resume=True)["steps"] == 3
    assert saved_steps(run) == [0, 1, 2, 3]


def test_ctrl_c_saves_and_resume_finishes(project):
    write_config(project, trainer={"max_steps": None, "num_epochs": 30, "save_step": -1})
    process = command(project, "--name", "one")
    try:
        ready, _, _ = select.select([process.stdout], [], [], 120)
        assert ready
        for line in process.stdout:
            if json.loads(line).get("event") == "step":
                break
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, complaints
    assert "Traceback" not in rest + complaints
    run = project / "runs" / "one"
    first, last = saved_steps(run)
    assert first == 0
    assert 1 <= last < 90
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    assert start(project, resume=True)["steps"] == 90
    assert saved_steps(run) == [0, last, 90]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "loss/policy" in line] == list(range(1, 91))

"""A run that is killed at any moment and resumed ends with the same bytes as one that was never stopped."""

import json
import os
import signal
import traceback
from pathlib import Path

import pytest
from tiny import make_project, row, write_rows

from rnow_core.errors import Interrupted
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

DISK_CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "ftruncate")
RESULTS = ("adapter_model.safetensors", "optimizer.safetensors")


def run_in_process(project: Path, name: str, resume: bool = False) -> dict:
    return train(project, overrides=[], name=name, resume=resume, emit=lambda event: None, stop=StopSignal())


def answered(text: str) -> dict:
    """A row of `sft`."""
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text[:2]}]
    return {"messages": messages}


@pytest.fixture(scope="module", params=["distill", "sft"])
def project(request, tmp_path_factory):
    """No rewards, so that a run takes a fraction of a second; a partial last batch; two epochs."""
    sft = request.param == "sft"
    folder = make_project(
        tmp_path_factory.mktemp("project"),
        dataset_type=request.param,
        trainer={"max_steps": None, "num_epochs": 2, "save_step": 2, "learning_rate": 0.01},
        data={"batch_size": 4, "group_size": 2, "val_file": "val.jsonl"},
        **({"teacher": None} if sft else {}),
    )
    for file, rows in (("train.jsonl", range(10)), ("val.jsonl", range(40, 44))):
        texts = [f"{i}+{i}=?" for i in rows]
        write_rows(folder / file, [answered(t) if sft else row(t, rewards=None) for t in texts])
    return folder


@pytest.fixture(scope="module")
def undisturbed(project):
    run_in_process(project, "undisturbed")
    return project / "runs" / "undisturbed"


def kill_at_disk_call(project: Path, name: str, resume: bool, moment: int) -> bool:
    """Run in a forked process that kills itself before its `moment`-th call that touches the disk.

    True when it was killed, False when it came to its end first.
    """
    child = os.fork()
    if child == 0:
        calls = 0

        def counted(real):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)

            return call

        for function in DISK_CALLS:
            setattr(os, function, counted(getattr(os, function)))
        try:
            run_in_process(project, name, resume)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def has_finished(run: Path) -> bool:
    """Whether the kill came behind the run's last word: there is nothing to resume then."""
    status = run / "status.json"
    return status.exists() and json.loads(status.read_text())["state"] == "finished"


def assert_same_result(run: Path, expected: Path) -> None:
    last = sorted((expected / "checkpoints").iterdir())[-1].name
    for file in RESULTS:
        got, wanted = run / "checkpoints" / last / file, expected / "checkpoints" / last / file
        assert got.read_bytes() == wanted.read_bytes(), file
    timeless = [
        [
            {
                key: value
                for key, value in line.items()
                if not key.startswith(("time/", "memory/", "tokens/per"))
            }
            for line in read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (run, expected)
    ]
    assert timeless[0] == timeless[1]
    assert [p.name for p in sorted((run / "rollouts").iterdir())] == [
        p.name for p in sorted((expected / "rollouts").iterdir())
    ]


@pytest.mark.parametrize("start", [3, 11, 23])
def test_killed_at_every_kind_of_moment(project, undisturbed, start):
    """Each life is killed a little later than the one before; in the end nothing is missing and nothing is double."""
    name = f"killed-{start}"
    moment, lives = start, 0
    while kill_at_disk_call(project, name, (project / "runs" / name / "config.json").exists(), moment):
        lives += 1
        moment += 13
        assert lives < 60
        if has_finished(project / "runs" / name):
            break
    assert lives >= 3
    assert_same_result(project / "runs" / name, undisturbed)


def test_two_runs_of_one_seed_are_the_same(project, undisturbed):
    run_in_process(project, "again")
    assert_same_result(project / "runs" / "again", undisturbed)


def test_stop_request_saves_and_resume_finishes(project, undisturbed):
    stop = StopSignal()

    def emit(event):
        if event.kind == "step" and event.fields["step"] == 3:
            stop.request()

    with pytest.raises(Interrupted) as error:
        train(project, overrides=[], name="stopped", resume=False, emit=emit, stop=stop)
    assert "--resume" in error.value.hint
    assert (project / "runs" / "stopped" / "checkpoints" / "step_000003" / RESULTS[0]).exists()
    run_in_process(project, "stopped", resume=True)
    assert_same_result(project / "runs" / "stopped", undisturbed)

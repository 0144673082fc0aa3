"""Whole runs whose monitors warn, stop or roll back, and the best checkpoint that each keeps."""

import json

import pytest
from safetensors.torch import load_file
from test_resume import answered, assert_same_result, has_finished, kill_at_disk_call, run_in_process
from tiny import make_project, row, write_config, write_rows

from rnow_core.errors import RunFailed
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

WEIGHTS, OPTIMIZER = "adapter_model.safetensors", "optimizer.safetensors"
ALWAYS = {"entropy_min": 100, "patience": 3, "truncated": "null"}
"""The entropy of a vocabulary of 49 is far below 100 nats: the monitor fires every third step."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = make_project(
        tmp_path_factory.mktemp("project"),
        data={"batch_size": 2, "group_size": 2, "val_file": "val.jsonl"},
        rollout={"max_tokens": 12},
        trainer={"max_steps": 5, "num_epochs": 2, "save_step": 3, "eval_step": 2, "learning_rate": 0.02},
    )
    for file in ("train.jsonl", "val.jsonl"):
        write_rows(folder / file, [row(f"{i}+{i}=?", rewards=None) for i in range(6)])
    return folder


def run(project, name, resume=False, **stability):
    events = []
    overrides = [] if resume else [f"stability.{key}={value}" for key, value in stability.items()]
    try:
        summary = train(
            project, overrides=overrides, name=name, resume=resume, emit=events.append, stop=StopSignal()
        )
    except RunFailed as error:
        return error, events
    return summary, events


def warnings(events):
    return [event.fields["message"] for event in events if "stability." in str(event.fields.get("message"))]


def best_by_hand(folder, metric="teacher_kl"):
    """The evaluated step with the smallest figure."""
    rows = [line for line in read_metrics(folder / "metrics.jsonl") if f"eval/val/{metric}" in line]
    return min(rows, key=lambda line: line[f"eval/val/{metric}"])["step"]


def assert_best_is_kept(folder, step):
    best = json.loads((folder / "status.json").read_text())["best"]
    assert best["step"] == step
    assert (folder / "best").resolve() == folder / "checkpoints" / f"step_{step:06d}"
    assert best["checkpoint"] == str((folder / "best").resolve())
    assert not (folder / "best").readlink().is_absolute()
    assert (folder / "best" / WEIGHTS).is_file()


@pytest.fixture(scope="module")
def rolled_back(project):
    summary, events = run(project, "rolled-back", **ALWAYS, action="rollback", max_rollbacks=1)
    return project / "runs" / "rolled-back", summary, events


def test_a_warning_lets_the_run_go_on(project):
    summary, events = run(project, "warned", **ALWAYS)
    folder = project / "runs" / "warned"
    assert len(warnings(events)) == 1
    assert "step 3: entropy" in warnings(events)[0]
    assert summary["best"]["step"] == best_by_hand(folder)
    assert_best_is_kept(folder, best_by_hand(folder))


def test_a_rollback_restores_the_best_weights_byte_for_byte(rolled_back):
    folder, summary, events = rolled_back
    rows = read_metrics(folder / "metrics.jsonl")
    (back,) = [line for line in rows if "rolled_back_to" in line]
    kl = {line["step"]: line["eval/val/teacher_kl"] for line in rows if "eval/val/teacher_kl" in line}
    assert kl[2] < kl[0]
    assert (back["step"], back["rolled_back_to"]) == (3, 2)
    assert "the weights of step 2 are loaded" in warnings(events)[0]
    after, before = (folder / "checkpoints" / f"step_{step:06d}" for step in (3, 2))
    assert (after / WEIGHTS).read_bytes() == (before / WEIGHTS).read_bytes()
    moments = [load_file(path / OPTIMIZER) for path in (after, before)]
    assert [int(state.pop("step")) for state in moments] == [3, 2]
    assert moments[0].keys() == moments[1].keys() != set()
    assert all((moments[0][key] == moments[1][key]).all() for key in moments[0])
    traces = [
        json.loads(line) for line in (folder / "rollouts" / "step_000004.jsonl").read_text().splitlines()
    ]
    assert {trace["policy"] for trace in traces} == {"student-back-000003"}
    assert summary["steps"] == 5
    assert [line["step"] for line in rows if "entropy" in line] == [1, 2, 3, 4, 5]


def test_a_killed_and_resumed_run_with_a_rollback_ends_as_an_undisturbed_one(project, rolled_back):
    expected, _, _ = rolled_back
    changes = {**ALWAYS, "truncated": None, "action": "rollback", "max_rollbacks": 1}
    write_config(
        project, **json.loads((expected / "config.json").read_text())["config"] | {"stability": changes}
    )
    name, moment, lives = "killed", 15, 0
    while kill_at_disk_call(project, name, (project / "runs" / name / "config.json").exists(), moment):
        lives += 1
        moment += 20
        if has_finished(project / "runs" / name):
            break
    assert lives >= 3
    assert_same_result(project / "runs" / name, expected)
    kept = [
        sorted(path.name for path in (run / "checkpoints").iterdir())
        for run in (project / "runs" / name, expected)
    ]
    assert kept[0] == kept[1]
    assert (project / "runs" / name / "best").readlink() == (expected / "best").readlink()


def test_a_stop_is_saved_says_why_and_stays_a_stop(project):
    error, _ = run(project, "stopped", **ALWAYS, action="stop")
    folder = project / "runs" / "stopped"
    assert "stability.entropy_min (100) for 3 steps" in error.message
    assert str((folder / "best").resolve()) in error.hint
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["step"], status["error"]) == ("failed", 3, error.message)
    assert (folder / "checkpoints" / "step_000003" / WEIGHTS).is_file()
    again, _ = run(project, "stopped", resume=True)
    assert again.message == error.message
    assert max(line["step"] for line in read_metrics(folder / "metrics.jsonl")) == 3


def test_sft_keeps_the_step_of_the_smallest_loss_and_no_surpassed_one(tmp_path):
    trainer = {"max_steps": 6, "save_step": -1, "eval_step": 1, "learning_rate": 0.3}
    project = make_project(tmp_path, dataset_type="sft", teacher=None, trainer=trainer)
    for file, numbers in (("train.jsonl", range(24)), ("val.jsonl", range(40, 44))):
        write_rows(project / file, [answered(f"{i}+{i}=?") for i in numbers])
    summary = run_in_process(project, "sft")
    folder = project / "runs" / "sft"
    best = best_by_hand(folder, "loss")
    assert_best_is_kept(folder, best)
    assert (summary["best"]["metric"], summary["best"]["step"]) == ("loss", best)
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {f"step_{step:06d}" for step in (0, best, 6)}

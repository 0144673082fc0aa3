"""Runs in stages on tiny models: cold start with `sft`, then `distill` from its adapter; killed, stopped, refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_resume import assert_same_result, has_finished, kill_at_disk_call
from tiny import make_project, write_config, write_rows
from transformers import AutoTokenizer

from rnow.guard import guarded
from rnow_core.config.schema import Config
from rnow_core.errors import FindingsError, Interrupted, RunFailed
from rnow_core.jobs.stages import titled
from rnow_core.jobs.train import train
from rnow_core.jobs.trial import TrialRequest, check_trial
from rnow_core.preflight.check import check_project
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

COLD_START = {
    "dataset_type": "sft",
    "data": {"train_file": "given.jsonl", "val_file": "given_val.jsonl"},
    "trainer": {"max_steps": 8, "learning_rate": 0.01},
}
ON_POLICY = {"trainer": {"max_steps": 12, "learning_rate": 0.03}}
STAGES = [COLD_START, ON_POLICY]
NAMES = ["01-sft", "02-distill"]


def given(asked: dict) -> dict:
    """A row of prompts with a short answer, which the reward likes."""
    return {**asked, "messages": [*asked["messages"], {"role": "assistant", "content": "12"}]}


def read_rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def settings(**sections) -> dict:
    return {
        "data": {"batch_size": 8, "group_size": 4},
        "rollout": {"max_tokens": 16},
        "trainer": {"save_step": 3, "max_steps": None, "num_epochs": 100},
        "eval": {"group_size": 4},
        **sections,
    }


def run(project: Path, *overrides: str, name: str | None = None, resume: bool = False, stop=None):
    events = []
    summary = train(
        project,
        overrides=list(overrides),
        name=name,
        resume=resume,
        emit=events.append,
        stop=stop or StopSignal(),
    )
    return summary, events


def adapter_of(folder: Path) -> bytes:
    last = sorted((folder / "stages" / NAMES[1] / "checkpoints").iterdir())[-1]
    return (last / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The teacher is the student's whole model after an `sft` of its own on short answers."""
    folder = make_project(tmp_path_factory.mktemp("staged"))
    for prompts, conversations in (("train.jsonl", "given.jsonl"), ("val.jsonl", "given_val.jsonl")):
        write_rows(folder / conversations, [given(asked) for asked in read_rows(folder / prompts)])
    teacher = {"trainer": {"max_steps": 60, "learning_rate": 0.003, "save_step": -1}, "eval": {}}
    write_config(
        folder, **settings(teacher=None, stages=[{**COLD_START, **teacher, "model": {"qlora_rank": 0}}])
    )
    run(folder, name="teacher")
    trained = folder / "runs" / "teacher" / "stages" / "01-sft" / "checkpoints" / "step_000060"
    shutil.copy(trained / "model.safetensors", folder / "student" / "trained.safetensors")
    shutil.rmtree(folder / "teacher")
    shutil.copytree(folder / "student", folder / "teacher")
    (folder / "student" / "trained.safetensors").unlink()
    (folder / "teacher" / "trained.safetensors").rename(folder / "teacher" / "model.safetensors")
    write_config(folder, **settings(stages=STAGES))
    return folder


@pytest.fixture(scope="module")
def finished(project):
    summary, events = run(project, name="finished")
    return project / "runs" / "finished", summary, events


def standing(folder: Path) -> dict[str, tuple[str, int]]:
    status = json.loads((folder / "status.json").read_text())
    return {name: (stage["state"], stage["step"]) for name, stage in status["stages"].items()}


def test_held_out_reward_goes_up_over_both_stages(finished):
    _, summary, _ = finished
    first, second = (summary["stages"][name] for name in NAMES)
    assert first["student_before"] + 0.2 < first["student_after"]
    assert second["student_before"] == first["student_after"]  # the same adapter, prompts and seeds
    assert second["student_before"] + 0.05 < second["student_after"]
    assert first["loss_after"] < first["loss_before"]
    assert (summary["student_before"], summary["student_after"]) == (
        first["student_before"],
        second["student_after"],
    )
    assert (summary["steps"], summary["checkpoint"]) == (20, second["checkpoint"])


def test_each_stage_is_a_whole_run_and_the_top_says_where_all_stand(finished, project):
    folder, summary, _ = finished
    assert sorted(path.name for path in (folder / "stages").iterdir()) == NAMES
    assert standing(folder) == {NAMES[0]: ("finished", 8), NAMES[1]: ("finished", 12)}
    top = json.loads((folder / "status.json").read_text())
    assert (top["state"], top["step"], top["total_steps"]) == ("finished", 20, 20)
    assert json.loads((folder / "summary.json").read_text())["stages"] == summary["stages"]
    assert not (folder / "checkpoints").exists()
    for name, steps in zip(NAMES, (8, 12), strict=True):
        stage = folder / "stages" / name
        assert json.loads((stage / "status.json").read_text())["state"] == "finished"
        assert [row["step"] for row in read_metrics(stage / "metrics.jsonl") if "grad_norm" in row] == list(
            range(1, steps + 1)
        )
    config = json.loads((folder / "stages" / NAMES[1] / "config.json").read_text())["config"]
    assert config["model"]["adapter"] == "./runs/finished/stages/01-sft/checkpoints/step_000008"


def test_events_name_their_stage(finished):
    _, _, events = finished
    kinds = [(event.kind, event.fields.get("stage")) for event in events]
    marks = [kind for kind in kinds if kind[0].startswith(("run_", "stage_"))]
    assert marks == [
        ("run_started", None),
        ("stage_started", NAMES[0]),
        ("stage_finished", NAMES[0]),
        ("stage_started", NAMES[1]),
        ("stage_finished", NAMES[1]),
        ("run_finished", None),
    ]
    steps = [(event.fields["stage"], event.fields["step"]) for event in events if event.kind == "step"]
    assert steps == [(NAMES[0], i) for i in range(1, 9)] + [(NAMES[1], i) for i in range(1, 13)]
    assert not [event for event in events if event.kind == "warning"]


def test_killed_in_each_stage_it_ends_with_the_same_bytes(finished, project):
    """Killed again and again until it is done: in both stages, and in between."""
    folder = project / "runs" / "killed"
    cut = []
    while kill_at_disk_call(project, "killed", (folder / "config.json").exists(), 90):
        cut.append([state for state, _ in standing(folder).values()])
        assert len(cut) < 20
        if has_finished(folder):
            break
    assert ["running", "waiting"] in cut
    assert ["finished", "running"] in cut
    assert standing(folder) == standing(finished[0])
    for name in NAMES:
        assert_same_result(folder / "stages" / name, finished[0] / "stages" / name)


def test_stopped_it_goes_on_with_what_it_was_started_with(finished, project):
    """Stopped in a stage, resumed with another config.yml, stopped between two stages, resumed."""
    folder = project / "runs" / "stopped"
    text = (project / "config.yml").read_text()

    def until(kind: str, resume: bool) -> str:
        stop = StopSignal()

        def emit(event):
            if event.kind == kind:
                stop.request()

        with pytest.raises(Interrupted, match="stopped after") as error:
            train(project, overrides=[], name="stopped", resume=resume, emit=emit, stop=stop)
        assert "--resume" in error.value.hint
        return json.loads((folder / "status.json").read_text())["state"]

    assert until("step", resume=False) == "interrupted"
    assert standing(folder) == {NAMES[0]: ("interrupted", 1), NAMES[1]: ("waiting", 0)}
    try:
        write_config(project, trainer={"max_steps": 1})
        assert until("stage_finished", resume=True) == "interrupted"
        assert standing(folder) == {NAMES[0]: ("finished", 8), NAMES[1]: ("waiting", 0)}
        run(project, name="stopped", resume=True)
    finally:
        (project / "config.yml").write_text(text)
    assert adapter_of(folder) == adapter_of(finished[0])


def test_a_failed_stage_ends_the_whole(project):
    with pytest.raises(RunFailed, match="finite"):
        run(project, "trainer.max_steps=2", "stages.1.trainer.learning_rate=1e30", name="failed")
    folder = project / "runs" / "failed"
    assert standing(folder)[NAMES[0]] == ("finished", 2)
    assert standing(folder)[NAMES[1]][0] == "failed"
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["step"] >= 2, "finite" in status["error"]) == ("failed", True, True)
    with (project / "train.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(RunFailed, match=r"train\.jsonl changed"):
        run(project, name="failed", resume=True)


def test_full_fine_tuning_goes_on_from_the_weights(project):
    run(project, "model.qlora_rank=0", "trainer.max_steps=1", name="full")
    stages = project / "runs" / "full" / "stages"
    config = json.loads((stages / NAMES[1] / "config.json").read_text())["config"]
    assert config["model"]["path"] == "./runs/full/stages/01-sft/weights"
    AutoTokenizer.from_pretrained(stages / NAMES[0] / "weights")
    ended = load_file(stages / NAMES[0] / "checkpoints" / "step_000001" / "model.safetensors")
    began = load_file(stages / NAMES[1] / "checkpoints" / "step_000000" / "model.safetensors")
    assert ended.keys() == began.keys()
    assert all(torch.equal(ended[name], began[name]) for name in ended)


def test_every_stage_is_checked_before_anything_runs(project):
    report = check_project(
        project, ["stages.0.data.train_file=nothing.jsonl", "stages.1.rollout.max_tokens=120"]
    )
    found = {(finding.code, finding.severity, finding.message.split(":")[0]) for finding in report.findings}
    assert ("RN201", "error", "stage 01-sft") in found
    assert ("RN222", "warning", "stage 02-distill") in found
    assert not report.ok
    with pytest.raises(FindingsError):
        run(project, "stages.0.data.train_file=nothing.jsonl", name="refused")
    assert not (project / "runs" / "refused").exists()


def test_a_trial_is_of_the_first_stage_that_samples(project):
    report = check_trial(TrialRequest(project, ["stages.1.rollout.max_tokens=9"]))
    assert (report.project.loaded.config.dataset_type, report.project.loaded.config.rollout.max_tokens) == (
        "distill",
        9,
    )
    assert [change.new for change in report.project.loaded.changes] == [9]


def test_the_command_line_checks_and_runs_stages(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    assert guarded(["validate"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^stage (\S+):$", out, re.MULTILINE) == NAMES
    assert "warning" not in out
    assert len(re.findall(r"^  memory\.total ", out, re.MULTILINE)) == 2
    assert guarded(["validate", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["plan"]["stages"]) == NAMES
    assert guarded(["run", "trainer.max_steps=1", "stages.1.model.adapter=null", "--name", "shown"]) == 0
    shown = capsys.readouterr()
    assert [line.split("  ")[0] for line in shown.out.splitlines() if line.startswith("step ")] == [
        "step 1/1",
        "step 1/1",
    ]
    lines = [line for line in shown.err.splitlines() if line.startswith("stage ")]
    assert lines == [line for name in NAMES for line in (f"stage {name}: 1 steps", f"stage {name} finished")]
    assert "stages[1].trainer.max_steps: 12 -> 1" in shown.err
    anew = project / "runs/shown/stages" / NAMES[1] / "checkpoints/step_000000/adapter_model.safetensors"
    assert not any(weight.any() for name, weight in load_file(anew).items() if "lora_B" in name)


@pytest.mark.parametrize(("given_name", "title"), [(None, "cold/01-sft"), ("mine", "mine/01-sft")])
def test_each_stage_has_a_wandb_run_of_its_own(given_name, title):
    logging = {"wandb_project": "p", "wandb_name": given_name}
    config = Config.model_validate({"dataset_type": "sft", "model": {"path": "./x"}, "logging": logging})
    assert titled(config, "cold/01-sft").logging.wandb_name == title

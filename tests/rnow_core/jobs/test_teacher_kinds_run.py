"""Whole runs whose teacher is the student wearing something: the average of its adapter, or an earlier one."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file
from test_context_run import Base
from test_resume import assert_same_result, run_in_process
from tiny import make_project, row, write_config, write_rows

from rnow_core.errors import Interrupted
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

CONTEXT = "think about it. " * 4
TAUS = {"adv_tau": 0, "teacher_tau": 1, "student_tau": 1}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("kinds"))
    write_rows(folder / "train.jsonl", [row(f"{i}+{i}=?", rewards=None) for i in range(16)])
    configure(folder, {"path": "self", "ema": 0.5, "context": CONTEXT})
    run_in_process(folder, "average")
    return folder


def configure(folder, teacher):
    data = {"batch_size": 4, "group_size": 4, "val_file": None}
    write_config(folder, teacher=teacher, algorithm=TAUS, data=data)


def test_a_resumed_run_with_an_average_ends_with_the_same_bytes(project):
    stop = StopSignal()

    def emit(event):
        if event.kind == "step" and event.fields["step"] == 2:
            stop.request()

    with pytest.raises(Interrupted):
        train(project, overrides=[], name="stopped", resume=False, emit=emit, stop=stop)
    run_in_process(project, "stopped", resume=True)
    assert_same_result(project / "runs" / "stopped", project / "runs" / "average")
    last = "checkpoints/step_000004/averaged_adapter.safetensors"
    files = [project / "runs" / name / last for name in ("stopped", "average")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_average_of_a_run_is_that_of_its_checkpoints(project):
    average = {}
    for step in range(5):
        folder = project / "runs" / "average" / "checkpoints" / f"step_{step:06d}"
        adapter = {name: w.double() for name, w in load_file(folder / "adapter_model.safetensors").items()}
        average = {name: 0.5 * average.get(name, w) + 0.5 * w for name, w in adapter.items()}
        saved = load_file(folder / "averaged_adapter.safetensors")
        found = {name.replace(".default.", "."): tensor.double() for name, tensor in saved.items()}
        torch.testing.assert_close(found, average, atol=1e-6, rtol=1e-6)


def test_an_earlier_adapter_is_the_teacher(project):
    adapter = "runs/average/checkpoints/step_000004"
    configure(project, {"path": "self", "adapter": adapter, "context": CONTEXT, "eval_baseline": False})
    run_in_process(project, "earlier")
    base = Base(project / "student")
    model = peft.PeftModel.from_pretrained(base.model, project / adapter)
    base.model = model.merge_and_unload().to(torch.float64)
    lines = (project / "runs" / "earlier" / "rollouts" / "step_000001.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        seen = [{"role": "user", "content": CONTEXT + record["messages"][0]["content"]}]
        expected = base.logprobs(base.prompt(seen), record["ids"])
        assert record["teacher"] == pytest.approx(expected, abs=1e-4)
    first = next(iter(read_metrics(project / "runs" / "earlier" / "metrics.jsonl")))
    assert abs(first["teacher_kl"]) > 0.01

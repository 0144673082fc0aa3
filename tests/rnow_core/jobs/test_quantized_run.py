"""Whole runs on a base in nf4: what they learn, what they continue, what a server is given."""

from pathlib import Path

import pytest
from served_runs import MISMATCH, run
from tiny import make_model, make_project, write_rows

from rnow_core.errors import Interrupted
from rnow_core.jobs.train import train
from rnow_core.preflight.check import check_project
from rnow_core.stop import StopSignal

NF4 = {"path": "./student", "qlora_rank": 8, "quantization": "nf4"}


def answer(i: int) -> dict:
    """A question and its answer."""
    turns = (("user", f"{i}+{i}=?"), ("assistant", str(2 * i)))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Student and teacher wide enough for nf4; sft.jsonl has the answers."""
    folder = make_project(tmp_path_factory.mktemp("nf4"), model=NF4)
    make_model(folder / "student", seed=1, hidden=64)
    make_model(folder / "teacher", seed=2, hidden=64, layers=2)
    write_rows(folder / "sft.jsonl", [answer(i) for i in range(8)])
    return folder


SFT = (
    *("dataset_type=sft", "teacher=null", "data.train_file=sft.jsonl", "data.val_file=sft.jsonl"),
    *("trainer.num_epochs=9", "trainer.max_steps=6", "trainer.learning_rate=0.02"),
)


def test_sft_learns_and_goes_on_byte_for_byte(project):
    whole = run(project, "whole", overrides=SFT)
    assert whole.error is None, whole.error
    assert whole.summary["loss_after"] < 0.9 * whole.summary["loss_before"]
    stop = StopSignal()

    def emit(event) -> None:
        if event.kind == "step" and event.fields["step"] == 3:
            stop.request()

    with pytest.raises(Interrupted):
        train(project, overrides=list(SFT), name="stopped", resume=False, emit=emit, stop=stop)
    resumed = run(project, "stopped", resume=True)
    assert resumed.error is None, resumed.error
    last = Path("checkpoints", "step_000006", "adapter_model.safetensors")
    assert (resumed.folder / last).read_bytes() == (whole.folder / last).read_bytes()


def test_distillation_between_quantised_models_closes_in(project):
    overrides = [
        "teacher.quantization=nf4",
        "data.group_size=8",
        "trainer.max_steps=20",
        "trainer.num_epochs=20",
    ]
    ran = run(
        project, "distilled", overrides=[*overrides, "trainer.learning_rate=0.02", "trainer.save_step=-1"]
    )
    assert ran.error is None, ran.error
    assert ran.summary["teacher_kl_after"] < 0.9 * ran.summary["teacher_kl_before"]
    assert max(metrics["mismatch_kl"] for metrics in ran.steps) < MISMATCH


def test_the_students_own_base_is_the_quantised_one(project):
    ran = run(project, "self", overrides=["teacher.path=self", "trainer.max_steps=2"])
    assert ran.error is None, ran.error
    assert abs(ran.steps[0]["teacher_kl"]) < 1e-6


def codes(project, *overrides: str) -> dict[str, str]:
    """The errors of a project, by code."""
    found = check_project(project, overrides).findings
    return {finding.code: finding.path for finding in found if finding.severity == "error"}


def test_what_nf4_cannot_do_is_said_before_a_run(project, tmp_path):
    assert codes(project, "teacher.quantization=nf4") == {}
    assert codes(project, "teacher.quantization=nf4", "rollout.engine=vllm") == {
        "RN307": "teacher.quantization"
    }
    narrow = make_model(tmp_path / "narrow", seed=3, hidden=96)
    assert codes(project, f"model.path={narrow}") == {"RN321": "model.quantization"}
    assert codes(project, f"teacher.path={narrow}", "teacher.quantization=nf4") == {
        "RN321": "teacher.quantization"
    }


def test_the_plan_counts_four_bits_and_what_a_server_is_given(project):
    plans = {
        name: check_project(project, overrides).plan
        for name, overrides in {
            "nf4": [],
            "plain": ["model.quantization=null"],
            "served": ["rollout.engine=vllm"],
        }.items()
    }
    assert plans["nf4"]["memory"]["student_weights"] < 0.5 * plans["plain"]["memory"]["student_weights"]
    assert "served_base" not in plans["nf4"]["disk"]
    assert plans["served"]["disk"]["served_base"] == plans["plain"]["memory"]["student_weights"]
    assert plans["served"]["disk"]["total"] > plans["nf4"]["disk"]["total"]

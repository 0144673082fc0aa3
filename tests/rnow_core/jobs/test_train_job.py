"""Whole runs on a tiny project: what they leave, and that every variant of the config trains."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import make_project, write_config
from transformers import AutoModelForCausalLM

from rnow_core.data.renderer import Renderer
from rnow_core.errors import FindingsError
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

METRICS = {
    *("teacher_kl", "teacher_kl/dataset_0", "loss/policy", "reward/mean", "reward/short", "mismatch_kl"),
    *("advantage/mean", "advantage/std", "entropy", "clip_fraction", "truncated_fraction", "learning_rate"),
    *("tokens/completion", "tokens/per_second", "time/rollout", "time/score", "time/train", "time/step"),
    *("memory/peak", "grad_norm"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"), teacher={"eval_baseline": True})


def run(project: Path, *overrides: str, name: str | None = None):
    events = []
    summary = train(
        project,
        overrides=list(overrides),
        name=name,
        resume=False,
        emit=events.append,
        stop=StopSignal(),
    )
    return summary, events


@pytest.fixture(scope="module")
def finished(project):
    summary, events = run(project, name="finished")
    return project / "runs" / "finished", summary, events


def last_checkpoint(folder: Path) -> Path:
    return sorted((folder / "checkpoints").iterdir())[-1]


def test_run_folder_is_complete(finished):
    folder, summary, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json",
        "status.json",
        "metrics.jsonl",
        "rollouts",
        "checkpoints",
        "summary.json",
        "logs",
    }
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert json.loads((folder / "summary.json").read_text()).items() >= summary.items()
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == [f"step_{i:06d}" for i in range(4)]


def test_summary_has_the_figures(finished):
    _, summary, _ = finished
    for name in ("student_before", "student_after", "teacher"):
        assert 0.0 <= summary[name] <= 1.0
    assert summary["teacher_kl_before"] > 0
    assert math.isfinite(summary["teacher_kl_after"])
    assert summary["seconds"] > 0


def test_metrics_of_every_step(finished):
    folder, _, _ = finished
    steps = [row for row in read_metrics(folder / "metrics.jsonl") if "loss/policy" in row]
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert set(row) >= METRICS
        assert all(row[name] is not None for name in METRICS)
        assert abs(row["mismatch_kl"]) < 1e-8
        assert row["clip_fraction"] == 0.0


def test_self_checks_ran_before_the_first_step(finished):
    _, _, events = finished
    kinds = [event.kind for event in events]
    assert kinds.index("check") < kinds.index("step")
    assert all(event.fields["passed"] for event in events if event.kind == "check")


def test_trace_shows_where_the_teacher_disagrees(finished):
    folder, _, _ = finished
    records = [json.loads(line) for line in (folder / "rollouts" / "step_000001.jsonl").open()]
    assert len(records) == 8
    for record in records:
        assert record["prompt_text"] == record["teacher_prompt_text"]
        assert record["prompt_text"].endswith("<|im_start|>assistant\n")
        per_token = ("ids", "pieces", "mask", "sampler", "trainer", "teacher", "kl", "advantage")
        assert len({len(record[name]) for name in per_token}) == 1
        assert record["kl_sum"] == pytest.approx(sum(record["kl"]), abs=1e-5)
        assert record["rewards"].keys() == {"short"}
        # b = 0.1: the advantage of a token is b times (teacher - student)
        for kl, advantage in zip(record["kl"], record["advantage"], strict=True):
            assert advantage == pytest.approx(-0.1 * kl, abs=2e-6)


def test_traced_logprobs_are_those_of_transformers(finished, project):
    """Re-score a kept rollout of step 1 with plain transformers: the student is still the base model then."""
    folder, _, _ = finished
    record = json.loads((folder / "rollouts" / "step_000001.jsonl").open().readline())
    ids = torch.tensor([record["prompt_ids"] + record["ids"]])
    start = len(record["prompt_ids"])
    assert tuple(record["prompt_ids"]) == Renderer.load(project / "student").encode(record["prompt_text"])
    for column, name in (("trainer", "student"), ("sampler", "student"), ("teacher", "teacher")):
        model = AutoModelForCausalLM.from_pretrained(project / name)
        with torch.no_grad():
            logp = model(ids).logits.double().log_softmax(-1)[0, start - 1 : -1]
        expected = logp.gather(1, ids[0, start:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(record[column]).double(), expected, atol=1e-4, rtol=0)


def test_adapter_loads_with_peft(finished, project):
    folder, _, _ = finished
    base = AutoModelForCausalLM.from_pretrained(project / "student")
    ids = torch.tensor([[1, 5, 9, 12]])
    before = base(ids).logits.detach().clone()
    after = PeftModel.from_pretrained(base, last_checkpoint(folder))(ids).logits
    assert not torch.allclose(before, after)


def test_kl_falls_with_training(project):
    """The whole machine learns: fifty steps bring the student visibly nearer to the teacher."""
    summary, _ = run(
        project,
        "trainer.max_steps=50",
        "trainer.num_epochs=50",
        "trainer.learning_rate=0.02",
        "data.group_size=8",
        "trainer.save_step=-1",
        "model.qlora_rank=16",
        "eval.group_size=16",
    )
    assert summary["teacher_kl_after"] < 0.7 * summary["teacher_kl_before"]


VARIANTS = {
    "importance sampling": ["algorithm.loss_fn=importance_sampling"],
    "cispo, three passes": ["algorithm.loss_fn=cispo", "trainer.updates_per_batch=3"],
    "hybrid": ["algorithm.adv_tau=0.5", "algorithm.teacher_tau=0.5", "algorithm.student_tau=0.5"],
    "clip and discount": ["algorithm.clip_min=-5", "algorithm.clip_max=5", "algorithm.kl_discount=0.9"],
    "full fine-tuning": ["model.qlora_rank=0", "trainer.learning_rate=0.0001"],
    "checkpointing": ["trainer.gradient_checkpointing=true", "trainer.micro_batch_tokens=32"],
    "schedule": ["trainer.lr_schedule=cosine", "trainer.warmup_steps=1", "trainer.weight_decay=0.1"],
    "held-out share": ["data.val_file=null", "data.val_split=0.25"],
    "no rewards": ["algorithm.skip_verification=true"],
    "bf16": ["model.dtype=bfloat16"],
    "hot sampling": ["rollout.temperature=1.5", "rollout.top_p=0.9"],
    "truncated replies masked": ["rollout.mask_truncated=true"],
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_train(project, overrides):
    summary, events = run(project, *overrides, "trainer.max_steps=2", "teacher.eval_baseline=false")
    losses = [event.fields["metrics"]["loss/policy"] for event in events if event.kind == "step"]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert summary["steps"] == 2


def test_self_teacher_starts_at_kl_zero(project):
    _, events = run(project, "teacher.path=self", "teacher.eval_baseline=false", "trainer.max_steps=2")
    steps = [event.fields["metrics"] for event in events if event.kind == "step"]
    assert abs(steps[0]["teacher_kl"]) < 1e-6


def test_rl_trains_on_rewards_alone(project, tmp_path):
    folder = make_project(tmp_path, dataset_type="rl", teacher=None)
    summary, events = run(folder)
    steps = [event.fields["metrics"] for event in events if event.kind == "step"]
    assert all("teacher_kl" not in metrics for metrics in steps)
    assert all(abs(metrics["advantage/mean"]) <= 1 for metrics in steps)
    assert summary["teacher_kl_before"] is None


def test_errors_write_nothing(tmp_path):
    folder = make_project(tmp_path)
    write_config(folder, algorithm={"loss_fn": "pppo"})
    with pytest.raises(FindingsError) as error:
        run(folder)
    assert error.value.findings[0].line is not None
    assert not (folder / "runs").exists()

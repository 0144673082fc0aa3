"""Every parameter that the two documents on distillation name is found on the mapping page, with the right key of ours.

The names are written here by hand, from the documents' commands, code blocks and tables.
"""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "mapping.md"

TOML = {
    "trainer.loss.adv_tau": "algorithm.adv_tau",
    "trainer.loss.teacher_tau": "algorithm.teacher_tau",
    "trainer.loss.student_tau": "algorithm.student_tau",
    "orchestrator.teacher_model.context": "teacher.context",
    "orchestrator.teacher_model.eval_baseline": "teacher.eval_baseline",
    "orchestrator.buffer.skip_verification": "algorithm.skip_verification",
    "orchestrator.eval": "data.val_file",
    "orchestrator.env id": None,
    "orchestrator.env args": None,
    "trainer.model.lora.rank": "model.qlora_rank",
    "batch_size": "data.batch_size",
    "max_tokens": "rollout.max_tokens",
    "--inference_gpu_ids": "resources.inference_gpus",
    "--teacher_gpu_ids": "resources.teacher_gpus",
    "--trainer_gpu_ids": "resources.trainer_gpus",
    "--inference.parallel.dp": "resources.inference_data_parallel",
    "--inference.parallel.tp": "resources.inference_tensor_parallel",
    "--teacher_inference.parallel.tp": "resources.teacher_tensor_parallel",
    "W&B": "logging.wandb_project",
    "uv run rl @ rl.toml": None,
}
HYDRA = {
    "rllm/backend": None,
    "model.name": "model.path",
    "model.lora_rank": "model.qlora_rank",
    "training.group_size": "data.group_size",
    "training.learning_rate": "trainer.learning_rate",
    "validation.group_size": "eval.group_size",
    "data.train_batch_size": "data.batch_size",
    "data.val_batch_size": "eval.batch_size",
    "rllm.algorithm.use_precomputed_advantage=true": "algorithm.adv_tau",
    "rllm.algorithm.loss_fn": "algorithm.loss_fn",
    "rllm.trainer.logger": "logging.wandb_project",
    "rllm.trainer.project_name": "logging.wandb_project",
    "workflow_args.clip_min": "algorithm.clip_min",
    "workflow_args.clip_max": "algorithm.clip_max",
    "teacher_model": "teacher.path",
    "shared_tokenizer": None,
    "DistillationWorkflow": None,
    "prepare_deepmath_data": None,
    "train_deepmath_distill_tinker": None,
}
METRICS = ("teacher_kl", "combined_advantage", "loss/policy", "reward/mean", "baseline_", "prompt_text")


def section(title):
    return PAGE.read_text().split(f"\n## {title}")[1].split("\n## ")[0]


def table(title):
    """Their name -> our key (None for `none`) and the note."""
    rows = [re.split(r"\s*\|\s*", line)[1:4] for line in section(title).splitlines() if line.startswith("| ")]
    plain = [[re.sub(r"[`\[\]]", "", cell) for cell in row[:2]] for row in rows[1:]]
    return {
        theirs: (None if ours == "none" else ours, row[2])
        for (theirs, ours), row in zip(plain, rows[1:], strict=True)
    }


@pytest.mark.parametrize(("title", "names"), [("TOML", TOML), ("Hydra", HYDRA)])
def test_every_name_of_the_document_is_mapped_or_said_to_have_no_counterpart(title, names):
    found = table(title)
    assert {name: found.get(name, ("missing",))[0] for name in names} == names
    assert [name for name in names if names[name] is None and not found[name][1]] == [], "why there is none"


def test_the_metrics_of_the_document_are_named():
    assert [name for name in METRICS if name not in section("TOML")] == []

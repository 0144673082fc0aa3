"""Held-out rewards of `sft`: the student answers the prompts of given conversations itself, with tools and rewards."""

import pytest
from agent_runs import asked_once, asked_twice, write_config
from agents import TOOLS, make_agent_model, processes_in
from tiny import write_rows

from rnow_core.jobs.train import train
from rnow_core.preflight.check import check_project
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics

REWARDS = '''from rnow import reward


@reward
def right(args, messages) -> float:
    """1 for the right sum."""
    return float(messages[-1]["content"] == args.metadata["answer"])
'''


def rewarded(i: int) -> dict:
    return {
        "messages": asked_once(i),
        "tools": ["add"],
        "rewards": ["right"],
        "metadata": {"answer": str(2 * i + 1)},
    }


def plain() -> dict:
    return {"messages": asked_twice(1), "tools": ["add"]}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The held-out rows are trained on as well: what is tested is the way to the figures. There is no teacher."""
    folder = tmp_path_factory.mktemp("rewarded")
    make_agent_model(folder / "student")
    (folder / "tools.py").write_text(TOOLS)
    (folder / "rewards.py").write_text(REWARDS)
    write_rows(folder / "train.jsonl", [rewarded(i) for i in range(4)])
    write_rows(folder / "val.jsonl", [plain(), *(rewarded(i) for i in range(3))])
    config = {
        "dataset_type": "sft",
        "data": {"batch_size": 4, "val_file": "val.jsonl"},
        "model": {"path": "./student", "qlora_rank": 0},
        "teacher": {"path": "./nowhere"},
        "rollout": {"max_tokens": 80},
        "trainer": {"learning_rate": 0.006, "num_epochs": 50, "max_steps": 40},
        "eval": {"group_size": 2},
    }
    write_config(folder, config)
    return folder


def test_rewards_of_sampled_replies_stand_beside_the_loss(project):
    summary = train(
        project, overrides=[], name="run", resume=False, emit=lambda event: None, stop=StopSignal()
    )
    assert not processes_in(project)
    rows = [row for row in read_metrics(project / "runs/run/metrics.jsonl") if "eval/val/loss" in row]
    assert [row["step"] for row in rows] == [0, 40]
    for row in rows:
        assert (row["eval/val/conversations"], row["eval/val/rollouts"]) == (4, 6)
        assert row["eval/val/avg@2"] == pytest.approx(row["eval/val/reward/mean"])
    assert (summary["student_before"], rows[0]["eval/val/turns/mean"]) == (0, 1)
    assert summary["student_after"] == rows[1]["eval/val/reward/right"] > 0.5
    assert rows[1]["eval/val/turns/mean"] > 1.5
    assert summary["loss_after"] < summary["loss_before"]


def test_an_engine_is_planned_only_where_rewards_can_be_had(project):
    plan = check_project(project).plan
    assert (plan["engine"], plan["replies_per_evaluation"]) == ("hf", 6)
    assert plan["kv_tokens"] > 0
    assert plan["memory"]["kv_cache"] > 0
    served = check_project(project, ["rollout.engine=vllm"]).plan
    assert (served["engine"], served["kv_tokens"]) == ("vllm", 0)
    assert "kv_cache" not in served["memory"]
    (project / "rewards.py").rename(project / "away.py")
    try:
        report = check_project(project)
    finally:
        (project / "away.py").rename(project / "rewards.py")
    assert report.ok
    assert not report.project.rewards
    assert (report.plan["kv_tokens"], "kv_cache" in report.plan["memory"]) == (0, False)
    assert "replies_per_evaluation" not in report.plan


def test_held_out_rows_that_cannot_be_judged_are_found(project):
    begins = rewarded(0) | {"messages": [{"role": "assistant", "content": "hello"}, *asked_once(0)]}
    write_rows(project / "odd.jsonl", [rewarded(0), begins, rewarded(1) | {"rewards": ["rigth"]}])
    report = check_project(project, ["data.val_file=odd.jsonl"])
    found = {(finding.code, finding.severity, finding.file, finding.line) for finding in report.findings}
    assert ("RN229", "warning", "odd.jsonl", 2) in found
    assert ("RN230", "error", "odd.jsonl", 3) in found

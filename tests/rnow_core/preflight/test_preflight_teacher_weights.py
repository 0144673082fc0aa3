"""What `validate` says of a teacher's adapter and moving average, and what the plan counts for them."""

import json

import pytest

from rnow_core.build.placement import engine_of
from rnow_core.config.schema import Config

SELF = ["teacher.path=self", "algorithm.adv_tau=0", "algorithm.teacher_tau=1", "algorithm.student_tau=1"]
ADAPTER = [*SELF, "teacher.adapter=adapter"]
EMA = [*SELF, "teacher.ema=0.9"]


@pytest.fixture
def adapter(project):
    """A folder that looks like an adapter."""
    folder = project.folder / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def check(finding, code, path, *words):
    assert (finding.code, finding.severity, finding.path) == (code, "error", path)
    assert all(word in finding.message for word in words), finding.message
    assert finding.hint


def test_adapters_that_are_there_are_fine(project, adapter):
    assert project.findings(*ADAPTER) == []
    assert project.findings("teacher.adapter=adapter") == []


def test_folders_that_are_no_adapter(project, adapter):
    check(
        project.finding(*SELF, "teacher.adapter=nowhere"), "RN305", "teacher.adapter", "no folder 'nowhere'"
    )
    project.edit_json("adapter/adapter_config.json", modules_to_save=["lm_head"])
    check(project.finding(*ADAPTER), "RN305", "teacher.adapter", "whole layers (lm_head)")
    project.edit_json("adapter/adapter_config.json", peft_type="IA3")
    check(project.finding("teacher.adapter=adapter"), "RN305", "teacher.adapter", "IA3 adapter")
    (adapter / "adapter_config.json").write_text("[]")
    check(project.finding(*ADAPTER), "RN305", "teacher.adapter", "cannot be read")
    (adapter / "adapter_model.safetensors").unlink()
    check(project.finding(*ADAPTER), "RN305", "teacher.adapter", "adapter_model.safetensors")


def test_without_an_adapter_of_its_own_the_student_wears_nothing(project, adapter):
    full = "model.qlora_rank=0"
    assert {f.code for f in project.findings(*ADAPTER, full)} == {"RN117"}
    assert {f.code for f in project.findings(*EMA, full)} == {"RN117", "RN118"}


def test_beside_vllm_only_the_trainers_own_copy_wears_something(project, adapter):
    vllm = "rollout.engine=vllm"
    assert engine_of(Config.model_validate({"dataset_type": "rl", "model": {"path": "x"}}), False) == "hf"
    check(project.finding("teacher.adapter=adapter", vllm), "RN307", "teacher.adapter", "not exact")
    for kind in (ADAPTER, EMA):
        assert project.findings(*kind, vllm) == []
        plan = project.check(*kind, vllm, "teacher.context='think about it'").plan
        assert plan["teacher_scores_in"] == "this process"
        finding = project.finding(*kind, vllm, "teacher.eval_baseline=true")
        check(finding, "RN307", "teacher.eval_baseline", "only scores")


def test_a_long_context_is_paid_for_each_rollout_on_a_server_only(project, adapter):
    project.edit_json("student/config.json", max_position_embeddings=1024)
    long = "teacher.context='" + "think. " * 60 + "'"

    def codes(*overrides):
        return {finding.code for finding in project.check(long, *overrides).findings}

    assert "RN266" in codes(*SELF, "rollout.engine=vllm")
    assert "RN266" not in codes(*ADAPTER, "rollout.engine=vllm")
    assert "RN266" not in codes(*SELF)
    longer = "teacher.context='" + "think. " * 150 + "'"
    project.edit_json("student/config.json", max_position_embeddings=4096)
    served = [*SELF, "rollout.engine=vllm", longer]
    assert project.check(*served).plan["teacher_scores_in"] == "this process"
    assert project.check(*served, "teacher.eval_baseline=true").plan["teacher_scores_in"] == "a server"


def test_the_plan_counts_the_average_and_the_contexts_keys(project):
    plain, averaged = project.check(*SELF, "teacher.context=think").plan, project.check(*EMA).plan
    trained = plain["trained_parameters"]
    assert averaged["memory"]["training"] - plain["memory"]["training"] == 4 * trained
    longer = project.check(*SELF, "teacher.context='think about it'").plan
    more = longer["teacher_context_tokens"] - plain["teacher_context_tokens"]
    per_token = 2 * 32 * 4  # keys and values of one layer with one key head of 32 float32
    tokens = longer["kv_tokens"] - plain["kv_tokens"] + 2 * more
    assert longer["memory"]["kv_cache"] - plain["memory"]["kv_cache"] == tokens * per_token

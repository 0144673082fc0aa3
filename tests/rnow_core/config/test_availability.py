import pytest

from rnow_core.config.availability import MISSING
from rnow_core.config.schema_tree import node_at


def missing(project, *overrides):
    return [finding.path for finding in project.load(*overrides).unavailable()]


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["teacher=[{path: ./a, name: a}, {path: ./b, name: b}]"], "teacher"),
        (["teacher.url=http://localhost:8000", "rollout.engine=hf"], "teacher.url"),
        (["teacher.template=own"], "teacher.template"),
        (["logging.trackio=true"], "logging.trackio"),
        (["resources.trainer_tensor_parallel=2"], "resources.trainer_tensor_parallel"),
    ],
)
def test_a_feature_without_engine_part_loads_and_is_refused_by_name(project, overrides, path):
    (finding,) = project.load(*overrides).unavailable()
    assert finding.path == path
    assert finding.message.startswith("not available yet")
    assert (finding.code, finding.severity, finding.file) == ("RN140", "error", "command line")
    assert finding.hint


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["dataset_type=rl", "teacher=null"],
        ["teacher.path=self"],
        ["teacher.path=self", "teacher.ema=0.9"],
        ["teacher.adapter=./adapter"],
        ["teacher.path=self", "teacher.context=Think.", "teacher.context_role=system"],
        ["teacher.context_file=context.txt", "algorithm.adv_tau=0", "algorithm.skip_verification=true"],
        ["dataset_type=sft", "teacher=null", "trainer.train_on=last_assistant"],
        ["rollout.engine=vllm"],
        ["rollout.engine=vllm", "model.qlora_rank=0"],
        ["resources.trainer_gpus=[0, 1]", "trainer.async_level=1"],
        ["teacher.url=http://localhost:8000", "rollout.url=http://localhost:8001"],
        ["model.qlora_rank=0"],
        ["model.quantization=nf4", "teacher.quantization=nf4"],
        ["rollout.max_turns=4", "rollout.deadline=60", "rollout.termination_policy=max_turns"],
        ["sandbox.network=none", "rollout.tool_timeout=5", "rollout.max_tool_response=100"],
        ["rollout.engine=hf", "rollout.max_turns=1", "rollout.reasoning_mode=disabled"],
        ["data.train_file=[a.jsonl, b.jsonl]", "data.val_split=0.1", "trainer.eval_step=5"],
        ["algorithm.loss_fn=cispo", "algorithm.kl_discount=0.5", "algorithm.clip_min=-5"],
        ["trainer.async_level=0", "trainer.updates_per_batch=2", "trainer.gradient_checkpointing=true"],
        ["eval.file=v.jsonl", "eval.group_size=2", "eval.max_tokens=9", "teacher.eval_baseline=true"],
        ["eval.file=v.jsonl", "eval.pass_at=[1, 4]", "eval.pass_threshold=0.5"],
        ["logging.wandb_project=x", "logging.keep_rollouts=0"],
        ["algorithm.signal=topk", "algorithm.topk=8", "algorithm.divergence=forward"],
        ["algorithm.signal=full", "algorithm.divergence=jsd", "algorithm.beta_jsd=0.2"],
    ],
)
def test_what_the_engine_has_is_not_refused(project, overrides):
    assert missing(project, *overrides) == []


def test_the_table_names_keys_of_the_schema_and_no_default_is_refused():
    for path, uses, instead in MISSING:
        keys = tuple(path.split("."))
        assert node_at(keys) is not None, path
        assert instead
        default = node_at(keys).get("default")
        assert default is None or not uses(default), path

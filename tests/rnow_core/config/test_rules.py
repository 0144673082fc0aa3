import pytest

from rnow_core.config.facts import api_maker, right_case


def refused(project, *overrides):
    return {
        (finding.code, finding.path)
        for finding in project.problems(*overrides)
        if finding.severity == "error"
    }


CONTRADICTIONS = [
    (["stability.action=rollback"], "RN128", "stability.action", ["evaluated"]),
    (["teacher=null"], "RN110", "teacher", ["distill", "teacher"]),
    (["dataset_type=rl"], "RN111", "teacher", ["teacher", "dataset_type: rl"]),
    (
        ["dataset_type=rl", "teacher=null", "algorithm.kl_penalty_coef=1"],
        "RN111",
        "algorithm.kl_penalty_coef",
        [],
    ),
    (
        ["dataset_type=rl", "teacher=null", "algorithm.teacher_tau=1"],
        "RN111",
        "algorithm.teacher_tau",
        ["rl"],
    ),
    (["dataset_type=rl", "teacher=null", "algorithm.signal=full"], "RN111", "algorithm.signal", ["rl"]),
    (
        ["algorithm.kl_penalty_coef=0.1", "algorithm.student_tau=1"],
        "RN112",
        "algorithm.kl_penalty_coef",
        ["kl_penalty_coef", "student_tau"],
    ),
    (
        ["dataset_type=rl", "teacher=null", "algorithm.adv_tau=0"],
        "RN113",
        "algorithm.adv_tau",
        ["nothing to learn"],
    ),
    (
        ["algorithm.adv_tau=0", "algorithm.teacher_tau=0"],
        "RN113",
        "algorithm.teacher_tau",
        ["nothing to learn"],
    ),
    (["data.group_size=1", "algorithm.adv_tau=1"], "RN114", "data.group_size", ["always 0", "adv_tau"]),
    (
        ["data.group_size=1", "dataset_type=rl", "teacher=null"],
        "RN114",
        "data.group_size",
        ["always 0", "rl"],
    ),
    (["data.group_size=1", "teacher.context=x"], "RN114", "data.group_size", ["always 0"]),
    (["algorithm.divergence=jsd"], "RN115", "algorithm.divergence", ["signal"]),
    (["algorithm.signal=topk", "algorithm.clip_min=-5"], "RN115", "algorithm.clip_min", ["topk"]),
    (["algorithm.signal=full", "algorithm.kl_discount=0.9"], "RN115", "algorithm.kl_discount", ["full"]),
    (["algorithm.signal=full", "algorithm.teacher_tau=1"], "RN115", "algorithm.teacher_tau", ["equal"]),
    (
        ["algorithm.skip_verification=true", "algorithm.adv_tau=1"],
        "RN116",
        "algorithm.skip_verification",
        ["adv_tau"],
    ),
    (
        ["algorithm.skip_verification=true", "teacher.context=x"],
        "RN116",
        "algorithm.skip_verification",
        ["0.5"],
    ),
    (["model.qlora_rank=0", "teacher.path=self"], "RN117", "teacher.path", ["self", "qlora_rank"]),
    (["model.qlora_rank=0", "model.quantization=nf4"], "RN118", "model.quantization", ["qlora_rank"]),
    (
        ["model.quantization=nf4", "rollout.url=http://localhost:1"],
        "RN129",
        "model.quantization",
        ["rollout.url", "4 bits"],
    ),
    (["teacher.path=self", "teacher.quantization=nf4"], "RN129", "teacher.quantization", ["self"]),
    (
        ["teacher.url=http://localhost:1", "teacher.quantization=nf4"],
        "RN129",
        "teacher.quantization",
        ["server"],
    ),
    (["model.qlora_rank=0", "model.adapter=./a"], "RN118", "model.adapter", ["qlora_rank"]),
    (["model.qlora_alpha=0"], "RN103", "model.qlora_alpha", ["alpha"]),
    (["teacher=[{path: ./a, name: a}, {path: ./b}]"], "RN119", "teacher[1].name", ["name"]),
    (["teacher=[{path: ./a, name: a}, {path: ./b, name: a}]"], "RN119", "teacher[1].name", ["`a`"]),
    (["teacher.context=x", "teacher.context_file=f"], "RN123", "teacher.context_file", ["context"]),
    (["teacher.path=self", "teacher.ema=0.9", "teacher.adapter=./a"], "RN123", "teacher.ema", ["adapter"]),
    (["teacher.ema=0.9"], "RN123", "teacher.ema", ["self"]),
    (["data.val_file=a", "eval.file=b"], "RN123", "eval.file", ["data.val_file", "eval.file"]),
    (["data.val_file=a", "data.val_split=0.1"], "RN123", "data.val_split", ["data.val_file"]),
    (["algorithm.clip_min=5", "algorithm.clip_max=-5"], "RN124", "algorithm.clip_min", ["clip_max"]),
    (["rollout.max_context_window=2048"], "RN124", "rollout.max_tokens", ["max_context_window"]),
    (["eval.pass_at=[1,16]"], "RN124", "eval.pass_at", ["group_size"]),
    (["trainer.eval_step=5"], "RN125", "trainer.eval_step", ["file"]),
    (["teacher.eval_baseline=true"], "RN125", "teacher.eval_baseline", ["file"]),
    (["model.path=openai/gpt-4o"], "RN122", "model.path", ["weights"]),
    (["teacher.path=qwen/qwen3-32b"], "RN121", "teacher.path", ["case"]),
]


@pytest.mark.parametrize(("overrides", "code", "path", "words"), CONTRADICTIONS)
def test_a_contradiction_is_one_error_that_names_the_keys(project, overrides, code, path, words):
    finding = project.problem(*overrides)
    assert (finding.code, finding.path) == (code, path)
    assert finding.hint
    assert [word for word in words if word not in finding.message] == []


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.group_size=1"],
        ["algorithm.signal=topk", "algorithm.kl_penalty_coef=1"],
        ["algorithm.signal=full", "algorithm.divergence=jsd", "algorithm.beta_jsd=0.1"],
        ["algorithm.skip_verification=true", "algorithm.adv_tau=0"],
        ["model.qlora_rank=0"],
        ["teacher.path=self", "model.adapter=./a"],
        ["teacher=[{path: ./a, name: a}, {path: ./b, name: b}]"],
        ["trainer.eval_step=5", "eval.file=x"],
        ["teacher.eval_baseline=true", "data.val_split=0.2"],
        ["eval.pass_at=[1,16]", "eval.group_size=16"],
        ["dataset_type=rl", "teacher=null", "algorithm.adv_tau=0.5"],
        ["dataset_type=sft", "data.group_size=1"],
        ["dataset_type=sft", "rollout.max_context_window=2048"],
        ["dataset_type=sft", "teacher.path=openai/gpt-4o"],
        ["algorithm.clip_min=-5", "algorithm.clip_max=5"],
    ],
)
def test_what_is_no_contradiction_loads(project, overrides):
    assert project.load(*overrides).config


def test_a_contradiction_stands_at_the_key_it_is_about(project):
    project.write("dataset_type: rl\nmodel: {path: ./x}\nalgorithm:\n  kl_penalty_coef: 0.1\n")
    assert (project.problem().line, project.problem().col) == (4, 3)
    project.write("model: {path: ./x}\ndataset_type: distill\n")
    assert project.problem().line == 2


def test_rules_stay_silent_about_values_that_are_refused_already(project):
    assert refused(project, "data.group_size=one", "algorithm.adv_tau=1") == {("RN103", "data.group_size")}
    assert refused(project, "algorithm.adv_tau=-1", "algorithm.skip_verification=true") == {
        ("RN103", "algorithm.adv_tau")
    }


@pytest.mark.parametrize(
    "name",
    [
        "openai/gpt-4o",
        "openai/gpt-4o-mini",
        "anthropic/claude-sonnet-4",
        "google/gemini-2.5-pro",
        "openai/o3",
        "openai/gpt-5",
        "gpt-4o",
        "claude-3-opus",
        "o3-mini",
        "openrouter/openai/o1",
        "OpenAI/GPT-4o",
        "x-ai/grok-4",
    ],
)
def test_a_teacher_behind_an_api_is_refused_with_reason_and_way_out(project, name):
    finding = project.problem(f"teacher.path={name}")
    assert finding.code == "RN120"
    assert finding.message.startswith("Unsupported teacher model")
    assert "logprobs" in finding.message
    assert "dataset_type: sft" in finding.hint


@pytest.mark.parametrize(
    "name",
    [
        "openai/gpt-oss-20b",
        "openai/gpt-oss-120b",
        "google/gemma-3-4b-it",
        "Qwen/Qwen3-235B-A22B",
        "openai-community/gpt2",
        "deepseek-ai/DeepSeek-V3",
        "meta-llama/Llama-3.3-70B-Instruct",
        "./openai/gpt-4o",
        "/models/claude-x",
        "self",
    ],
)
def test_open_models_and_folders_are_not(project, name):
    assert project.load(f"teacher.path={name}").config.teacher[0].path == name
    assert right_case(name) is None


def test_a_folder_of_the_project_is_never_taken_for_an_api(project):
    (project.path.parent / "o3").mkdir()
    (project.path.parent / "qwen" / "qwen3-32b").mkdir(parents=True)
    assert project.load("teacher.path=o3")
    assert project.load("teacher.path=qwen/qwen3-32b")
    assert api_maker("o3") == "OpenAI"


def test_another_case_of_a_known_id_gets_the_right_one(project):
    assert "`Qwen/Qwen3-32B`" in project.problem("teacher.path=qwen/qwen3-32b").hint
    assert "`Qwen/Qwen3-8B`" in project.problem("model.path=QWEN/Qwen3-8b").hint

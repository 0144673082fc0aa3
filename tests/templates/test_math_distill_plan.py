"""What the pages of the math-distill template say of memory and GPUs is what the planner computes."""

import json

import pytest

from rnow.assets import asset_root
from rnow.scaffold import plan_project, write_project
from rnow.skills import load_skill
from rnow_core.config.load import load_config
from rnow_core.data.rows import load_prompts
from rnow_core.preflight import plan
from rnow_core.preflight.model_facts import read_config

TEMPLATE = asset_root() / "templates" / "math-distill"
SKILL = load_skill(asset_root() / "skills" / "math-distillation")
QWEN3 = {  # sizes as published: config.json of each model
    "8B-Base": {
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 12288,
    },
    "14B": {
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "intermediate_size": 17408,
    },
    "32B": {
        "hidden_size": 5120,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "intermediate_size": 25600,
    },
}
SHARED = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False}
GIB = 2**30


def planned(tmp_path, monkeypatch, teacher, gpus, gib):
    """The plan of the template's own config on a machine with these GPUs, and the errors in it."""
    facts = {}
    for name, sizes in QWEN3.items():
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({**sizes, **SHARED, "max_position_embeddings": 32768}))
        facts[name] = read_config(file, name, "model.path")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "?"}]}) + "\n")
    rows = load_prompts([tmp_path / "rows.jsonl"], dataset_type="distill", need_rewards=False) * 128
    monkeypatch.setattr(plan, "gpu_memory", lambda: [gib * GIB] * gpus)
    context = {
        "project": {"name": "sums"},
        "skill": SKILL.descriptor(),
        "install": {"requirement": "rnow-distill"},
    }
    write_project(plan_project(TEMPLATE, SKILL, tmp_path, context), force=True)
    config = load_config(tmp_path / "config.yml", ["rollout.engine=vllm"]).config
    known = plan.Known(facts["8B-Base"], facts[teacher], rows, rows, [300] * len(rows), 32768)
    made = plan.make_plan(config, known, tmp_path)
    return made, [finding.code for finding in (*plan.memory_finding(made), *plan.server_findings(made))]


@pytest.mark.parametrize(
    ("teacher", "gpus", "gib", "codes", "sharing", "trainer"),
    [
        ("32B", 1, 80, ["RN412"], "sleep", [0]),
        ("14B", 1, 80, [], "sleep", [0]),
        ("32B", 1, 141, [], "sleep", [0]),
        ("32B", 2, 80, ["RN412"], "apart", [1]),
        ("14B", 2, 80, [], "apart", [1]),
        ("32B", 3, 80, [], "apart", [2]),
        ("32B", 8, 80, [], "apart", [4, 5, 6, 7]),
    ],
)
def test_the_plan_still_says_what_the_pages_say_of_gpus(
    tmp_path, monkeypatch, teacher, gpus, gib, codes, sharing, trainer
):
    made, found = planned(tmp_path, monkeypatch, teacher, gpus, gib)
    placement = made["placement"]
    assert (found, placement["sharing"], placement["trainer"]) == (codes, sharing, trainer)


def test_the_plan_still_says_what_the_pages_say_of_memory(tmp_path, monkeypatch):
    made, _ = planned(tmp_path, monkeypatch, "32B", 8, 80)
    memory = {name: f"{size / GIB:.1f}" for name, size in made["memory"].items()}
    assert (memory["student_weights"], memory["training"], memory["activations"]) == ("15.3", "5.2", "12.5")
    assert f"{made['teacher_parameters'] * 2 / GIB:.1f}" == "61.0"
    assert f"{made['disk']['checkpoint'] / GIB:.1f}" == "3.9"
    page = (TEMPLATE / "README.md").read_text()
    assert [size for size in ("61.0", "15.3", "5.2", "12.5", "3.9") if f"| {size} |" not in page] == []

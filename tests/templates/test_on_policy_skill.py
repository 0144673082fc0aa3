"""The on-policy-distillation skill: every example works, every file it names is there, and the signs are right."""

import re

import pytest
from ruamel.yaml import YAML

from rnow.assets import asset_root
from rnow.skills import load_skill
from rnow_core.config.facts import api_maker, right_case
from rnow_core.config.load import load_config
from rnow_core.config.schema import Config, merge
from rnow_core.data.rows import load_prompts

SKILL = load_skill(asset_root() / "skills" / "on-policy-distillation")
TEMPLATE = asset_root() / "templates" / "on-distill-agent"
TEXT = (SKILL.folder / "SKILL.md").read_text()
BY_THE_RUN_OR_USER = {"rewards.py", "metrics.jsonl", "step_000001.jsonl"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_yaml_example_is_a_config(block):
    base = {"dataset_type": "distill", "model": {"path": "a"}, "teacher": {"path": "b"}}
    Config.model_validate(merge(base, YAML(typ="safe").load(block)))


def test_the_config_example_is_the_template_s_short_form(tmp_path):
    example = next(block for block in blocks("yaml") if "dataset_type" in block)
    (tmp_path / "config.yml").write_text(example)
    config = load_config(tmp_path / "config.yml").config
    assert (config.model.path, config.teacher[0].path) == (
        SKILL.metadata["student"],
        SKILL.metadata["teacher"],
    )
    assert config.weights.adv_tau == 0, "the whole signal is the teacher's, as the skill says"


def test_every_row_example_is_a_row(tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(blocks("json")))
    rows = load_prompts([tmp_path / "rows.jsonl"], dataset_type="distill", need_rewards=False)
    assert len(rows) == 3


def test_every_file_that_it_names_exists():
    files = {
        name.split("/")[-1] for name in re.findall(r"`([\w./-]+\.(?:py|jsonl|md)|Dockerfile\.\w+)`", TEXT)
    }
    there = {path.name.removesuffix(".j2") for path in TEMPLATE.iterdir()}
    assert {"tools.py", "CLAUDE.md", "Dockerfile.crawl4ai"} <= files
    assert files - there <= BY_THE_RUN_OR_USER | {"Dockerfile.NAME"}


def test_it_recommends_no_model_that_validate_would_refuse():
    table = SKILL.section("Choosing a teacher").split("### ")[0]
    ids = re.findall(r"`([\w.-]+/[\w.-]+)`", table)
    assert {"Qwen/Qwen3-32B", "meta-llama/Llama-3.3-70B-Instruct", "deepseek-ai/DeepSeek-V3"} <= set(ids)
    refused = {"qwen/qwen3-32b": right_case, "openai/gpt-4o": api_maker}
    for name in ids:
        if name in refused:
            assert refused[name](name)
        else:
            assert api_maker(name) is None
            assert right_case(name) is None


def test_proprietary_models_are_sent_off_policy_with_the_error_s_own_words():
    assert "dataset_type: sft" in SKILL.section("Proprietary models")
    assert "Unsupported teacher model" in SKILL.section("Troubleshooting")


def test_defaults_in_the_table_are_the_schema_s():
    config = Config.model_validate(
        {"dataset_type": "distill", "model": {"path": "a"}, "teacher": {"path": "b"}}
    )
    rows = dict(
        re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| ([^|]+?) \|", SKILL.section("config.yml"), re.MULTILINE)
    )
    assert rows["algorithm.kl_penalty_coef"] == f"{config.weights.student_tau:g}"
    assert rows["algorithm.loss_fn"] == config.algorithm.loss_fn
    assert rows["model.qlora_rank"] == str(config.model.qlora_rank)
    assert rows["rollout.max_tokens"] == str(config.rollout.max_tokens)
    turns = (config.rollout.turns(tools=False), config.rollout.turns(tools=True))
    assert rows["rollout.max_turns"] == f"{turns[0]}; {turns[1]} with tools"

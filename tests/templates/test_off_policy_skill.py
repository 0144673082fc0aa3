"""The off-policy-distillation skill: every example works, and its tables say what the product does."""

import json
import re
from typing import get_args

import pytest
import typer
from off_distill import SKILL, TEMPLATE
from ruamel.yaml import YAML

from rnow.cli import app
from rnow.skills import load_skill
from rnow_core.config.facts import api_maker
from rnow_core.config.load import load_config
from rnow_core.config.schema import Config, merge
from rnow_core.data.prompt_file import load_source
from rnow_core.data.rows import load_prompts
from rnow_core.rollout.verdict import Reason

LOADED = load_skill(SKILL)
TEXT = (SKILL / "SKILL.md").read_text()


def blocks(language, text=TEXT):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def table(heading):
    rows = [
        line.strip("|").split("|") for line in LOADED.section(heading).splitlines() if line.startswith("| `")
    ]
    return [[cell.strip() for cell in row] for row in rows]


WORDS = ("none", "all", "off", "no limit", "required", "any", "the server's", "OpenRouter's", "automatic")
WORDS += ("config.yml's", "the student's")


def same(default, value):
    """Whether a table's default is a value: as it is written, as a number, or in words for one that has no text."""
    written = (str(value), f"{value:g}" if isinstance(value, float) else "")
    return default in written or (default in WORDS and str(value) not in default)


def test_options_and_defaults_are_the_command_s():
    command = typer.main.get_command(app).commands["generate"]
    known = {name: option for option in command.params for name in option.opts}
    told = {cells[0]: cells[1] for cells in table("Generating")}
    for names, default in told.items():
        for name in re.findall(r"`([^`]+)`", names):
            assert same(default, known["source" if name == "INPUT" else name].default), name
    listed = {name for names in told for name in re.findall(r"`(--[^`]+)`", names)}
    assert listed | {"--json"} == {name for name in known if name.startswith("--")} - {"--help"}


def test_every_reason_is_explained():
    assert {name for cells in table("Quality") for name in re.findall(r"`([^`]+)`", cells[0])} == set(
        get_args(Reason)
    )


def test_the_examples_of_prompts_and_rows_are_some(tmp_path):
    prompts, rows = blocks("json")
    (tmp_path / "prompts.jsonl").write_text(prompts)
    assert [item.prompt.tools for item in load_source(tmp_path / "prompts.jsonl")] == [None, ("browse",)]
    (tmp_path / "train.jsonl").write_text(rows)
    (row,) = load_prompts([tmp_path / "train.jsonl"], dataset_type="sft", need_rewards=False)
    assert (row.tools, row.metadata["turns"]) == (("browse",), 2)


def test_the_filter_example_keeps_right_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = json.loads(blocks("json")[1])
    wrong = {**row, "metadata": {"expected_answer": "bevastat"}}
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (row, wrong)))
    (example,) = blocks("python")
    exec(compile(example, "SKILL.md", "exec"), {})
    assert [json.loads(line) for line in (tmp_path / "checked.jsonl").read_text().splitlines()] == [row]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_yaml_example_is_a_config(block):
    Config.model_validate(
        merge({"dataset_type": "sft", "model": {"path": "a"}}, YAML(typ="safe").load(block))
    )


def test_the_config_example_is_the_template_s(tmp_path):
    (tmp_path / "config.yml").write_text(next(block for block in blocks("yaml") if "project_name" in block))
    (tmp_path / "template.yml").write_text(
        re.sub(
            r"\{\{ .*?(project_name|dataset_type|student).*?\}\}",
            lambda name: json.dumps(LOADED.metadata[name[1]]),
            (TEMPLATE / "config.yml.j2").read_text(),
        )
    )
    assert load_config(tmp_path / "config.yml").config == load_config(tmp_path / "template.yml").config


def test_defaults_of_config_keys_are_the_schema_s():
    config = Config.model_validate({"dataset_type": "sft", "model": {"path": "a"}})
    for key, default, _ in table("config.yml"):
        section, name = key.strip("`").split(".")
        value = getattr(getattr(config, section), name)
        assert same(default, value) or float(default) == value, key


def test_its_teachers_are_those_that_cannot_teach_on_policy():
    names = [cells[0].strip("`") for cells in table("Teachers")]
    assert LOADED.metadata["teacher"] == names[0]
    assert all(api_maker(name) for name in names)

"""The skills and templates that are shipped: valid, and nothing in them that does not exist."""

import ast
import re
import shlex

import pytest

from rnow.assets import asset_root, folders
from rnow.cli import invoke
from rnow.skills import load_skill
from rnow_core.config.schema import json_schema
from rnow_core.config.schema_tree import keys_of, node_at

SKILLS = [load_skill(folder) for folder in folders(asset_root() / "skills").values()]
TEMPLATES = folders(asset_root() / "templates")
MAX_LINES = 300


def text_of(skill):
    return (skill.folder / "SKILL.md").read_text()


def commands_in(text):
    """Every `rnow ...` in shell blocks and in code spans."""
    blocks = re.findall(r"^```(?:bash|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`(rnow [^`\n]+)`", text)
    return [shlex.split(line, comments=True) for line in [*lines, *spans] if line.strip().startswith("rnow ")]


def test_every_template_has_at_most_one_owner_and_every_owner_a_template():
    owned = [skill.template for skill in SKILLS if skill.template]
    assert len(owned) == len(set(owned))
    assert set(owned) <= set(TEMPLATES)
    assert "quickstart" in owned


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_a_skill_is_short_and_an_owner_has_the_sections_that_templates_pull(skill):
    text = text_of(skill)
    assert len(text.splitlines()) <= MAX_LINES
    if skill.template:
        assert skill.section("Setup")
        assert skill.commands("Quick start")
        assert {"dataset_type", "student", "teacher"} <= set(skill.metadata)
        assert skill.metadata["dataset_type"] in json_schema()["properties"]["dataset_type"]["enum"]


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_every_command_in_a_skill_exists(skill):
    commands = commands_in(text_of(skill))
    assert commands
    for _, *words in commands:
        assert invoke([words[0], "--help"]) == 0
        assert invoke([*words, "--help"]) == 0


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_every_config_key_in_a_skill_exists(skill):
    sections = [key for key in keys_of(()) if keys_of((key,))]
    found = re.findall(rf"\b((?:{'|'.join(sections)})(?:\.[a-z_]+)+)\b", text_of(skill))
    files = {"config.yml", "config.json", "train.jsonl"}
    keys = {key for key in found if key not in files}
    assert keys
    assert [key for key in keys if node_at(tuple(key.split("."))) is None] == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_becomes_a_project_whose_python_compiles(name, rnow, tmp_path):
    done = rnow("init", name, "proj")
    assert done.code == 0, done.err
    project = tmp_path / "work" / "proj"
    assert (project / "config.yml").is_file()
    assert (project / "README.md").is_file()
    for path in project.rglob("*.py"):
        ast.parse(path.read_text(), str(path))
    assert not list(project.rglob("*.j2"))

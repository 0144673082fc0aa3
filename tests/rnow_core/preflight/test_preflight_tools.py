"""What `validate` says of tools.py, of the rows that use it, and of the places where tools run."""

import json

import pytest
from agents import TEMPLATE, TOOLS
from tiny import row

SANDBOXED = TOOLS.replace("@tool\ndef add", "@tool(sandbox=True)\ndef add")
FINE = row("1+1=?", rewards=None)


@pytest.fixture
def agent(project):
    """A project with tools, whose student's template shows them."""
    (project.folder / "tools.py").write_text(TOOLS)
    for model in ("student", "teacher"):
        project.edit_json(f"{model}/tokenizer_config.json", chat_template=TEMPLATE)
    return project


def codes(project, *overrides):
    return {finding.code: finding for finding in project.check(*overrides).findings}


def test_tools_that_fit_are_noted(agent):
    notes = codes(agent)
    assert set(notes) == {"RN238", "RN239"}
    assert "18 of 18 rows have tools" in notes["RN238"].message
    assert "up to 10 turns" in notes["RN238"].message
    assert "add, fail" in notes["RN239"].message
    assert agent.check().ok


def test_single_turns_offer_no_tools(agent):
    assert set(codes(agent, "rollout.max_turns=1")) == {"RN237"}


def test_prompts_are_counted_with_the_tools_that_they_show(agent):
    with_tools = agent.check().plan["prompt_tokens"]["max"]
    assert with_tools > agent.check("rollout.max_turns=1").plan["prompt_tokens"]["max"] + 40


def test_a_tool_that_does_not_exist_names_row_and_choices(agent):
    agent.rows(FINE, {**FINE, "tools": ["add", "browse"]})
    finding = agent.finding()
    assert (finding.code, finding.file, finding.line, finding.path) == ("RN236", "train.jsonl", 2, "tools")
    assert "browse" in finding.message
    assert "add, fail" in finding.hint


def test_without_tools_py_a_row_with_tools_is_an_error(project):
    project.rows(FINE, {**FINE, "tools": ["add"]})
    assert project.finding().code == "RN236"


def test_a_tools_py_that_cannot_be_loaded_names_the_line(agent):
    (agent.folder / "tools.py").write_text("import rnow\nimport no_such_package_here\n")
    finding = agent.finding()
    assert (finding.code, finding.file, finding.line) == ("RN234", "tools.py", 2)


def test_a_student_that_cannot_be_shown_tools(agent):
    plain = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    agent.edit_json("student/tokenizer_config.json", chat_template=plain)
    assert "RN317" in codes(agent)


def test_a_container_that_no_tool_uses(agent):
    agent.rows(FINE, {**FINE, "docker": "python:3.12"})
    finding = agent.finding()
    assert (finding.code, finding.severity, finding.line) == ("RN240", "warning", 2)


def test_no_place_for_sandboxed_tools(agent, monkeypatch, tmp_path):
    (agent.folder / "tools.py").write_text(SANDBOXED)
    agent.rows({**FINE, "docker": "python:3.12"}, FINE)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    missing = [finding for finding in agent.findings() if finding.code == "RN402"]
    assert len(missing) == 2
    assert any("bubblewrap" in finding.message for finding in missing)
    assert all(finding.hint for finding in missing)


def test_a_secret_that_is_not_set(agent, monkeypatch):
    monkeypatch.delenv("SERVICE_KEY", raising=False)
    finding = agent.finding('sandbox.secrets=["SERVICE_KEY"]')
    assert finding.code == "RN403"
    assert "SERVICE_KEY" in finding.message
    monkeypatch.setenv("SERVICE_KEY", "hidden value")
    report = agent.check('sandbox.secrets=["SERVICE_KEY"]')
    assert report.ok
    assert "hidden value" not in json.dumps(report.plan) + str(report.findings)

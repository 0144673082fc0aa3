"""What `validate` says of projects that train on given conversations."""

import json

import pytest
from agents import TOOLS, make_agent_model, tool_call
from tiny import write_config

QUESTION = {"role": "user", "content": "1+2=?"}
REPLY = {"role": "assistant", "content": "3"}


@pytest.fixture
def sft(project):
    """The tiny project as `sft`: no teacher, rows with answers."""
    write_config(project.folder, dataset_type="sft", teacher=None)
    project.rows(*(answered(i) for i in range(5)))
    project.rows(answered(50), answered(51), file="val.jsonl")
    (project.folder / "rewards.py").unlink()
    return project


def answered(i, **extra):
    messages = [{"role": "user", "content": f"{i}+{i}=?"}, {"role": "assistant", "content": f"{2 * i}"}]
    return {"messages": messages, **extra}


def test_the_plan_counts_conversations_and_nothing_that_samples_or_scores(sft):
    report = sft.check("trainer.max_steps=null", "trainer.num_epochs=2", "data.batch_size=4")
    assert report.findings == []
    plan = report.plan
    assert (plan["rows"], plan["held_out_rows"], plan["steps_per_epoch"], plan["steps"]) == (5, 2, 2, 4)
    ids = [report.project.conversations.tokenize(row) for row in report.project.prompts]
    assert plan["epoch_tokens"]["total"] == sum(len(item.ids_T) for item in ids)
    assert plan["epoch_tokens"]["trained"] == sum(sum(item.mask_T) for item in ids)
    assert set(plan["memory"]) == {"student_weights", "training", "activations", "total"}
    assert plan["placement"]["reasons"] == ["training alone, on the CPU"]


def test_rows_need_no_rewards_py_even_when_they_name_rewards_for_later(sft):
    sft.rows(answered(1, rewards=["accuracy"]))
    assert sft.findings() == []


def test_the_window_may_be_below_the_reply_length_that_nobody_samples(sft):
    assert sft.findings("rollout.max_context_window=64", "rollout.max_tokens=2048") == []


@pytest.mark.parametrize("file", ["train.jsonl", "val.jsonl"])
def test_a_conversation_beyond_the_window_names_its_line(sft, file):
    sft.rows(answered(60), answered(61, extra=1), answered("1" * 60), file=file)
    finding = sft.finding()
    assert (finding.code, finding.file, finding.line, finding.severity) == ("RN228", file, 3, "error")


def test_a_conversation_that_just_fits_is_fine(sft):
    longest = sft.check().plan["conversation_tokens"]["max"]
    sft.rows(answered(1), file="val.jsonl")
    found = sft.findings(f"rollout.max_context_window={longest}")
    assert {finding.code for finding in found} == {"RN223"}
    found = sft.findings(f"rollout.max_context_window={longest - 1}")
    assert {finding.code for finding in found} == {"RN223", "RN228"}


def test_an_unknown_id_names_its_line(sft):
    sft.edit_json("student/config.json", vocab_size=12)
    assert "RN226" in {finding.code for finding in sft.findings()}


def test_gpus_for_servers_are_refused(sft):
    finding = sft.finding("resources.inference_gpus=[0]")
    assert (finding.code, finding.path) == ("RN412", "resources")
    assert "sft" in finding.message


def called(**extra):
    call = {"id": "call_1", **tool_call("add", a=1, b=2)}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "3"}
    reply = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"messages": [QUESTION, reply, result, REPLY], **extra}


@pytest.fixture
def agent(sft):
    make_agent_model(sft.folder / "student")
    (sft.folder / "tools.py").write_text(TOOLS)
    return sft


def test_rows_are_rendered_with_the_schemas_of_tools_py(agent):
    agent.rows(called(tools=["add"]), called())
    report = agent.check()
    assert [finding for finding in report.findings if finding.severity != "info"] == []
    one, both = (report.project.conversations.tokenize(row) for row in report.project.prompts)
    call = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
    text = (
        "<|im_start|>system\nadd: Add two numbers.\n<|im_end|>\n<|im_start|>user\n1+2=?<|im_end|>\n"
        f"<|im_start|>assistant\n{call}<|im_end|>\n<|im_start|>user\n<tool_response>3</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>"
    )
    renderer = report.project.renderer
    assert tuple(one.ids_T) == renderer.encode(text)
    offered = text.replace("numbers.\n<", "numbers.\nfail: Always fails.\n<", 1)
    assert tuple(both.ids_T) == renderer.encode(offered)


def test_sandboxes_that_would_run_tools_are_not_asked_for(agent, monkeypatch):
    monkeypatch.setenv("PATH", "")
    (agent.folder / "tools.py").write_text(TOOLS.replace("@tool", "@tool(sandbox=True)"))
    agent.rows(called(tools=["add"]))
    assert agent.findings("sandbox.secrets=[NOT_SET]") == []


def test_tools_of_a_project_without_tools_py_are_an_error(agent):
    (agent.folder / "tools.py").unlink()
    agent.rows(called(tools=["add"]))
    codes = [(finding.code, finding.severity, finding.line) for finding in agent.findings()]
    assert ("RN236", "error", 1) in codes


def test_calls_that_the_row_does_not_offer_are_a_warning(agent):
    agent.rows(answered(1), called(tools=["fail"]), called(tools=[]))
    finding = agent.finding()
    assert (finding.code, finding.severity, finding.line) == ("RN245", "warning", 2)
    assert finding.message.startswith("2 of 5 rows")


def test_a_template_without_tool_calls_is_an_error(sft):
    (sft.folder / "tools.py").write_text(TOOLS)
    row = called(tools=["add"])
    row["messages"][1]["content"] = ""
    sft.rows(row)
    finding = sft.finding()
    assert (finding.code, finding.line) == ("RN220", 1)
    assert "tool call" in finding.message
    json.dumps(finding.as_dict())

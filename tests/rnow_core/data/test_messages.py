"""What the messages of a row may be: roles, content, tool calls, results and order."""

import pytest

from rnow_core.data.messages import check_messages
from rnow_core.data.row_issues import RowIssues

USER = {"role": "user", "content": "What is 2+2?"}
REPLY = {"role": "assistant", "content": "4"}


def tool_call(arguments='{"a": 1}', **more):
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": arguments}, **more}],
    }


def check(messages, kind="distill"):
    issues = RowIssues("train.jsonl", 2)
    return check_messages(issues, messages, kind), issues.findings


@pytest.mark.parametrize("arguments", ['{"a": 1}', {"a": 1}])
def test_arguments_become_an_object(arguments):
    result = {"role": "tool", "content": "1", "tool_call_id": "x"}
    messages, found = check([USER, tool_call(arguments, id="x"), result])
    message = messages[1]
    assert not found
    assert message["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert message["content"] is None


def test_a_call_without_arguments_or_content():
    call = tool_call("")
    del call["content"]
    messages, found = check([USER, call, {"role": "tool", "content": "1"}])
    message = messages[1]
    assert not found
    assert message["tool_calls"][0]["function"]["arguments"] == {}
    assert message["content"] is None


BAD = {
    "empty messages": ([], "RN206", "messages"),
    "messages a string": ("hi", "RN207", "messages"),
    "message a string": ([USER, "hi"], "RN207", "messages[1]"),
    "no role": ([{"content": "x"}], "RN206", "messages[0].role"),
    "role a number": ([{"role": 1, "content": "x"}], "RN207", "messages[0].role"),
    "unknown role": ([USER, {"role": "narrator", "content": ""}], "RN208", "messages[1].role"),
    "no content": ([{"role": "user"}], "RN206", "messages[0].content"),
    "null content": ([{"role": "user", "content": None}], "RN207", "messages[0].content"),
    "content an object": ([{"role": "user", "content": {}}], "RN207", "messages[0].content"),
    "part a string": ([{"role": "user", "content": ["x"]}], "RN207", "messages[0].content[0]"),
    "part without text": (
        [{"role": "user", "content": [{"type": "text"}]}],
        "RN207",
        "messages[0].content[0].text",
    ),
    "an image": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "RN212",
        "messages[0].content[0].type",
    ),
    "tool_calls an object": (
        [{**REPLY, "tool_calls": {}}, USER],
        "RN207",
        "messages[0].tool_calls",
    ),
    "user calls": ([{**tool_call(), "role": "user"}], "RN209", "messages[0].tool_calls"),
    "call without function": (
        [{**REPLY, "tool_calls": [{"name": "add"}]}, USER],
        "RN207",
        "messages[0].tool_calls[0]",
    ),
    "call without name": (
        [{**REPLY, "tool_calls": [{"function": {"arguments": "{}"}}]}, USER],
        "RN207",
        "messages[0].tool_calls[0].function.name",
    ),
    "broken arguments": (
        [tool_call('{"a": '), USER],
        "RN213",
        "messages[0].tool_calls[0].function.arguments",
    ),
    "arguments a list": (
        [tool_call("[1]"), USER],
        "RN213",
        "messages[0].tool_calls[0].function.arguments",
    ),
    "call id a number": ([tool_call(id=7), USER], "RN207", "messages[0].tool_calls[0].id"),
    "result without call": (
        [USER, REPLY, {"role": "tool", "content": "x"}],
        "RN214",
        "messages[2].role",
    ),
    "result of another call": (
        [USER, tool_call(id="a"), {"role": "tool", "content": "", "tool_call_id": "b"}],
        "RN214",
        "messages[2].tool_call_id",
    ),
    "tool_call_id a number": (
        [USER, tool_call(), {"role": "tool", "content": "", "tool_call_id": 3}],
        "RN207",
        "messages[2].tool_call_id",
    ),
    "only a system message": (
        [{"role": "system", "content": "x"}],
        "RN209",
        "messages",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_each_fault_has_its_code_and_path(case):
    messages, code, path = BAD[case]
    _, (finding,) = check(messages)
    assert (finding.code, finding.path) == (code, path)
    assert (finding.file, finding.line, finding.severity) == ("train.jsonl", 2, "error")


@pytest.mark.parametrize(
    ("role", "hint"),
    [("developer", "'system'"), ("human", "'user'"), ("Assistant", "'assistant'"), ("function", "'tool'")],
)
def test_a_known_other_name_of_a_role(role, hint):
    _, (finding,) = check([{"role": role, "content": "x"}, USER])
    assert hint in finding.hint
    assert role in finding.message


@pytest.mark.parametrize("kind", ["distill", "rl"])
def test_a_row_that_ends_with_an_answer(kind):
    _, (finding,) = check([USER, REPLY], kind)
    assert (finding.code, finding.path) == ("RN209", "messages[1].role")
    assert "nothing for the student to answer" in finding.message
    assert "sft" in finding.hint
    assert check([USER, REPLY], "sft") == ((USER, REPLY), [])


def test_sft_needs_an_answer():
    _, (finding,) = check([USER], "sft")
    assert (finding.code, finding.path) == ("RN209", "messages")

"""Replies as models really write them: several calls, text around, reasoning, and every way to get it wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnow_core.data.tool_calls.formats import FORMAT_NAMES, named_format
from rnow_core.data.tool_calls.records import MAX_PROBLEMS

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
DS = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{}\n```<｜tool▁call▁end｜>"


@pytest.fixture(scope="module")
def forms(tool_renderers):
    names = [name for name in FORMAT_NAMES if name != "response_template"]
    return {name: named_format(name, tool_renderers["qwen3"]) for name in names}


def calls(reply):
    return [(call.name, call.arguments) for call in reply.calls]


@pytest.mark.parametrize(
    ("form", "text", "content", "expected"),
    [
        ("hermes", f"First.\n{ADD}\nThen.\n{ADD} End.", "First.\nThen.\nEnd.", [("add", {"a": 1})] * 2),
        (
            "hermes",
            '<tool_call>{"arguments":"{\\"a\\": 1}","name":"add"}</tool_call>',
            "",
            [("add", {"a": 1})],
        ),
        ("hermes", '<tool_call>{"name":"now","arguments":""}</tool_call>', "", [("now", {})]),
        ("hermes", f"```\n{ADD}\n```", "```\n```", [("add", {"a": 1})]),
        ("hermes", f"<think>a {ADD}</think>\n\nno <think>{ADD}</think> call", None, []),
        ("hermes", f"the word <think> alone\n{ADD}", "the word <think> alone", [("add", {"a": 1})]),
        ("hermes", '  {"name": "add", "arguments": {}} </tool_call> \n', None, []),
        ("llama3_json", '{"name": "add", "parameters": {"a": 1}}', "", [("add", {"a": 1})]),
        ("llama3_json", '\n{"type": "function", "name": "f", "parameters": {}}', "", [("f", {})]),
        (
            "llama3_json",
            '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "arguments": "{}"}',
            "",
            [("f", {}), ("g", {})],
        ),
        ("llama3_json", 'Wait.<|python_tag|>{"name": "f", "parameters": {}}', "Wait.", [("f", {})]),
        (
            "llama3_json",
            '{"name": "f", "parameters": {}}\n{"name": "g", "parameters": {}} done',
            "done",
            [("f", {}), ("g", {})],
        ),
        (
            "llama3_json",
            '{"name": "f", "parameters": {"t": "<|python_tag|>; {"}}',
            "",
            [("f", {"t": "<|python_tag|>; {"})],
        ),
        ("llama3_json", '```json\n{"name": "f", "parameters": {}}\n```', None, []),
        ("llama3_json", '{"name": "Ada", "age": 36}', None, []),
        ("llama3_json", 'Say {"name": "f", "parameters": {}}', None, []),
        (
            "mistral",
            '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"t": "[TOOL_CALLS]"}}]',
            "",
            [("f", {}), ("g", {"t": "[TOOL_CALLS]"})],
        ),
        (
            "mistral",
            'Well.[TOOL_CALLS]f[CALL_ID]abc123XYZ[ARGS]{}[TOOL_CALLS]g{"a": 1}',
            "Well.",
            [("f", {}), ("g", {"a": 1})],
        ),
        (
            "deepseek",
            f"Hm.{DS}\n<｜tool▁call▁begin｜>f<｜tool▁sep｜>{{}}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Hm.",
            [("add", {}), ("f", {})],
        ),
        ("qwen3_coder", "<function=f>\n<parameter=a>1</parameter></function> ok", "ok", [("f", {"a": "1"})]),
        ("qwen3_coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [("now", {})]),
    ],
)
def test_well_formed_calls(forms, form, text, content, expected):
    reply = forms[form].parse(text)
    assert calls(reply) == expected
    assert reply.problems == ()
    if content is not None:
        assert reply.content == content
    elif reply.reasoning is None:
        assert reply.content == text


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1,}}</tool_call>', "invalid JSON at character 3"),
        ("hermes", "<tool_call>{'name': 'add'}</tool_call>", "invalid JSON at character 2 "),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>', "NaN is no JSON number"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1e999}}</tool_call>', "out of range"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1, "a": 2}}</tool_call>', "'a' stands twice"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": "\\ud800"}}</tool_call>', "surrogate"),
        ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "must be a JSON object, got a list"),
        ("hermes", '<tool_call>{"name": "add", "arguments": "\\"{}\\""}</tool_call>', "JSON object, got a string"),
        ("hermes", '<tool_call>{"name": "add"}</tool_call>', 'has no "arguments"'),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', 'no "name"'),
        ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>', "got a number"),
        ("hermes", '<tool_call>["add"]</tool_call>', "must be a JSON object, got a list"),
        ("hermes", "<tool_call></tool_call>", "invalid JSON at character 1 "),
        ("hermes", '<tool_call>{"name": "add", "argum', "the reply ends inside it; the call is not closed"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {}}', "not closed with </tool_call>"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {}}}</tool_call>', "text behind the JSON object"),
        ("hermes", "<tool_call>" + "[" * 5000, "nested more than"),
        ("hermes", "<tool_call>" + "[" * 200 + "]" * 200 + "</tool_call>", "nested more than"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"n": ' + "9" * 5000 + "}}</tool_call>", "digits"),
        ("llama3_json", '{"name": "add", "parameters": {"a": 1}', "reply ends inside it"),
        ("llama3_json", '<|python_tag|>import os\nos.remove("x")', "invalid JSON at character 1 "),
        ("llama3_json", '{"name": "f", "parameters": {}, "arguments": {}}', "both parameters and arguments"),
        ("mistral", "[TOOL_CALLS]", "missing behind [TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS] []", "empty"),
        ("mistral", '[TOOL_CALLS] [{"name": "f"', "reply ends inside it"),
        ("mistral", "[TOOL_CALLS]f[ARGS][1]", "got a list"),
        ("deepseek", "<｜tool▁calls▁begin｜>add", "is missing behind"),
        ("deepseek", DS.replace("\n```<", "<"), "fence"),
        ("deepseek", DS.removesuffix("<｜tool▁call▁end｜>"), "instead of <｜tool▁call▁end｜>"),
        ("deepseek", DS.replace("add\n", "\n"), "invalid JSON"),
        ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\n1", "<parameter=a> is not closed"),
        ("qwen3_coder", "<tool_call>{}</tool_call>", "<function=tool_name> is missing"),
        ("qwen3_coder", "<tool_call><function=f>a=1</function></tool_call>", "got 'a=1"),
        ("qwen3_coder", "<tool_call><function=f>", "got the end of the reply"),
        ("qwen3_coder", "<tool_call><function=f></function>", "not closed with </tool_call>"),
        ("qwen3_coder", "<function=f><parameter=a>1</parameter><parameter=a>2</parameter></function>", "given twice"),
        ("qwen3_coder", "<function=f><parameter=a>x</parameter>y</parameter></function>", "got 'y"),
    ],
)  # fmt: skip
def test_malformed_calls_say_what_is_wrong_and_what_is_expected(forms, form, text, message):
    reply = forms[form].parse(text)
    assert reply.calls == ()
    assert len(reply.problems) == 1
    assert message in reply.problems[0].message
    assert reply.problems[0].message.endswith(forms[form].expected)
    assert reply.problems[0].excerpt == text[:200]


def test_a_malformed_call_leaves_the_others(forms):
    reply = forms["hermes"].parse(f"Now.\n{ADD}\n<tool_call>{{bad}}</tool_call>\n{ADD}")
    assert calls(reply) == [("add", {"a": 1})] * 2
    assert reply.content == "Now."
    assert reply.problems[0].message.startswith("Tool call 2 was not run: invalid JSON")
    listed = forms["mistral"].parse('[TOOL_CALLS] [{"name": "f", "arguments": {}}, 3]')
    assert (calls(listed), len(listed.problems)) == ([("f", {})], 1)


def test_a_call_in_the_strings_of_a_malformed_call_is_not_made(forms):
    inner = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'
    reply = forms["hermes"].parse(
        f"<tool_call>{{'name': 'write', 'arguments': {{'text': '{inner}'}}}}</tool_call>"
    )
    assert reply.calls == ()
    mistral = forms["mistral"].parse("[TOOL_CALLS]f[ARGS]{'t': '[TOOL_CALLS]rm[ARGS]{}'}")
    assert (mistral.calls, len(mistral.problems)) == ((), 1)


@pytest.mark.parametrize(
    ("prompt", "text", "reasoning", "content", "count"),
    [
        ("", "<think>\nso\n</think>\n\nYes.", "so", "Yes.", 0),
        ("assistant\n<think>\n", f"so\n</think>\n\n{ADD}", "so", "", 1),
        ("assistant\n<think>\n", f"<think>\nso {ADD}\n</think>\n\n{ADD}", f"so {ADD}", "", 1),
        ("assistant\n<think>\n", f"cut {ADD}", f"cut {ADD}", "", 0),
        ("assistant\n<think>\n\n</think>\n\n", f"Yes. {ADD}", None, "Yes.", 1),
        ("[INST]x[/INST][THINK]", f"so[/THINK]{ADD}", "so", "", 1),
        ("", "No </think> here.", None, "No </think> here.", 0),
    ],
)
def test_reasoning_is_split_off(forms, prompt, text, reasoning, content, count):
    reply = forms["hermes"].parse(text, prompt=prompt)
    assert (reply.reasoning, reply.content, len(reply.calls)) == (reasoning, content, count)
    assert reply.problems == ()


def test_ids_are_the_models_own_where_they_can_be_used(forms):
    given = '[{"name":"f","arguments":{},"id":"abc123XYZ"},{"name":"f","arguments":{},"id":"abc123XYZ"},'
    reply = forms["mistral"].parse(
        f'[TOOL_CALLS] {given}{{"name":"f","arguments":{{}},"id":7}}]', first_call=4
    )
    assert [call.id for call in reply.calls] == ["abc123XYZ", "call00005", "call00006"]


def test_values_get_the_types_of_the_schema(forms):
    values = {
        "n": "3",
        "x": "2.5",
        "t": "5",
        "b": "True",
        "o": '{"k": [1]}',
        "u": "null",
        "w": "many",
        "e": "2",
        "any": "7",
    }
    types = {
        **{"n": {"type": "integer"}, "x": {"type": "number"}, "t": {"type": "string"}, "b": {"type": "boolean"}},
        **{"o": {"type": "object"}, "u": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        **{"w": {"type": "integer"}, "e": {"enum": [1, 2]}, "any": {}},
    }  # fmt: skip
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": types}}}]
    text = f"<tool_call>\n<function=f>\n{body}</function>\n</tool_call>"
    assert forms["qwen3_coder"].parse(text, tools=tools).calls[0].arguments == {
        **{"n": 3, "x": 2.5, "t": "5", "b": True, "o": {"k": [1]}, "u": None, "w": "many", "e": 2, "any": 7}
    }
    assert forms["qwen3_coder"].parse(text).calls[0].arguments == values


PIECES = [
    *(
        ADD,
        DS,
        "<tool_call>",
        "</tool_call>",
        '["',
        '{"name": "f", "',
        "[TOOL_CALLS]",
        "[ARGS]",
        "f{",
        "<think>",
    ),
    *(
        "</think>",
        "<function=f>",
        "<parameter=a>",
        "</parameter>",
        "</function>",
        "<|python_tag|>",
        '"',
        "\\",
        " ",
    ),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "```json",
        "\n",
        "x",
    ),
]


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=20), prompt=st.sampled_from(["", "<think>\n"]))
def test_any_text_parses(forms, pieces, prompt):
    text = "".join(pieces)
    for form in forms.values():
        reply = form.parse(text, prompt=prompt)
        assert len(reply.content) + len(reply.reasoning or "") <= len(text)
        if not reply.calls and not reply.problems and "<think>" not in prompt + text:
            assert reply.content == text


@pytest.mark.parametrize(
    ("form", "piece"),
    [
        ("hermes", '<tool_call>["'),
        ("hermes", '<tool_call>["</tool_call>'),
        ("hermes", "<tool_call>[\n"),
        ("hermes", "<think>x</think><think>"),
        ("llama3_json", '{"name": "f", '),
        ("llama3_json", "<|python_tag|>  "),
        ("mistral", "[TOOL_CALLS]f{"),
        ("deepseek", "<｜tool▁calls▁begin｜>\n <｜tool▁call▁begin｜> "),
        ("deepseek", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>\n\n<｜tool▁call▁end｜>"),
        ("qwen3_coder", "<function="),
        ("qwen3_coder", "<tool_call> <function=f><parameter=a>x</parameter></tool_call>"),
    ],
)
def test_ten_megabytes_of_garbage(forms, form, piece):
    """Anything worse than linear would not end within hours."""
    reply = forms[form].parse(piece * (10_000_000 // len(piece)))
    assert reply.calls == ()
    assert len(reply.problems) <= MAX_PROBLEMS


def test_many_well_formed_calls(forms):
    reply = forms["hermes"].parse(ADD * 20_000)
    assert (len(reply.calls), reply.calls[-1].id) == (20_000, "call19999")

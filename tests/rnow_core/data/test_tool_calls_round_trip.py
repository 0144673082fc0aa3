"""What a template writes for tool calls is read back, and a conversation with them continues in its ids."""

import json

import pytest
from chat_styles import TOOLS
from hypothesis import given, settings
from hypothesis import strategies as st

from rnow_core.data.bridge import conversation_ids, turn_ids
from rnow_core.data.tool_calls.formats import detect_format

USER = {"role": "user", "content": "What is two plus two?"}
STYLES = ("qwen25", "qwen3", "qwen3_coder", "llama", "mistral", "mistral11", "deepseek", "deepseek31")
MARKERS = [
    *("<tool_call>", "</tool_call>", "<function=f>", "</function>", "<think>", "</think>", "```", '"', "\\"),
    *("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", ";", '{"name": "x", "arguments": {}}', "\n", "[/THINK]"),
    *("<｜tool▁call▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁sep｜>", "你好", "🙂"),
]
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array"}

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
texts = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(MARKERS)), max_size=4).map("".join)
scalars = st.one_of(
    texts,
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


def made(style, calls):
    """An assistant message in the form that the style's template takes."""
    return {
        "role": "assistant",
        "content": None if style.startswith("deepseek") else "",
        "tool_calls": [
            {"id": f"callid{i:03d}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for i, (name, arguments) in enumerate(calls)
        ],
    }


def schemas(calls):
    """Tool schemas that declare the types of the arguments."""
    return [
        {
            "function": {
                "name": name,
                "parameters": {
                    "properties": {k: {"type": TYPES.get(type(v), "null")} for k, v in arguments.items()}
                },
            }
        }
        for name, arguments in calls
    ]


def sampled(renderer, message):
    """The text that a model would have sampled for a message."""
    header = renderer.render([USER], tools=TOOLS)
    whole = renderer.render([USER, message], tools=TOOLS, add_generation_prompt=False)
    assert whole.startswith(header)
    text = whole.removeprefix(header).rstrip()
    end = renderer.decode([renderer.end_of_turn_id])
    assert text.endswith(end)
    return header, text.removesuffix(end)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_calls_that_a_template_writes_are_read_back(tool_renderers, style, data):
    keys = names if style == "qwen3_coder" else texts
    plain = values.filter(lambda v: "</parameter>" not in str(v)) if style == "qwen3_coder" else values
    one = st.tuples(names, st.dictionaries(keys, plain, max_size=3))
    most = 1 if style == "llama" else 3
    calls = data.draw(st.lists(one, min_size=1, max_size=most, unique_by=lambda call: call[0]))
    renderer = tool_renderers[style]
    header, text = sampled(renderer, made(style, calls))
    reply = detect_format(renderer).parse(text, prompt=header, tools=schemas(calls))
    assert [(call.name, call.arguments) for call in reply.calls] == calls
    assert reply.problems == ()
    assert reply.content == ""
    assert len({call.id for call in reply.calls}) == len(calls)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=25, deadline=None)
@given(answer=st.text(max_size=20), argument=st.text(max_size=20))
def test_a_turn_of_calls_continues_in_the_ids_of_the_whole_rendering(tool_renderers, style, answer, argument):
    """Prompt, sampled turn, glue for the results: what one rendering of all has, history being append-only."""
    renderer = tool_renderers[style]
    specials = [renderer.decode([i]) for i in renderer.special_ids]
    if any(text in answer + argument for text in specials) or "▁" in answer + argument:
        return
    message = made(style, [("add", {"a": argument}), ("add", {"a": 2})][: 1 if style == "llama" else 2])
    if style == "qwen3":
        message["reasoning_content"] = "two and two"
    results = [
        {"role": "tool", "name": "add", "tool_call_id": call["id"], "content": answer}
        for call in message["tool_calls"]
    ]
    header = renderer.prompt_ids([USER], tools=TOOLS)
    whole = renderer.prompt_ids([USER, message, *results], tools=TOOLS)
    turn = whole[len(header) : whole.index(renderer.end_of_turn_id, len(header)) + 1]
    glue = turn_ids(renderer, results, tools=TOOLS, previous_assistant=message)
    assert whole == (*header, *turn, *glue)
    reply = detect_format(renderer).parse(renderer.decode(turn[:-1]), prompt=renderer.decode(header))
    assert [call.name for call in reply.calls] == ["add"] * len(results)
    assert reply.calls[0].arguments == {"a": argument}
    assert reply.reasoning == ("two and two" if style == "qwen3" else None)
    ids, mask = conversation_ids(renderer, [USER, message], tools=TOOLS)
    assert ids == (*header, *turn)
    assert sum(mask) == len(turn)


@pytest.mark.parametrize("style", STYLES)
def test_malformed_calls_are_answered_as_tool_results(tool_renderers, style):
    """Also where a template checks the ids; `turn_ids` makes a call up that the answer stands behind."""
    renderer = tool_renderers[style]
    form = detect_format(renderer)
    (problem,) = form.parse(form.expected[: len(form.expected) // 2], first_call=3).problems
    assert problem.id == "call00003"
    answer = {"role": "tool", "name": "add", "tool_call_id": problem.id, "content": problem.message}
    assert "was not run: " in renderer.decode(turn_ids(renderer, [answer], tools=TOOLS))


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=20, deadline=None)
@given(arguments=st.dictionaries(names, texts.filter(lambda t: "</parameter>" not in t), max_size=3))
def test_arguments_as_a_json_string_are_never_encoded_twice(tool_renderers, style, arguments):
    renderer = tool_renderers[style]
    as_text, as_object = (made(style, [("add", form)]) for form in (json.dumps(arguments), arguments))
    text = renderer.render([USER, as_text], tools=TOOLS)
    assert text == renderer.render([USER, as_object], tools=TOOLS)
    header, turn = sampled(renderer, as_text)
    reply = detect_format(renderer).parse(turn, prompt=header, tools=schemas([("add", arguments)]))
    assert reply.calls[0].arguments == arguments


@pytest.mark.parametrize("style", STYLES)
def test_a_loop_of_two_rounds_of_tools(tool_renderers, style):
    """Turn by turn it has the ids of one rendering; only the sampled turns are trained."""
    renderer = tool_renderers[style]
    messages = [USER]
    for i in range(2):
        message = made(style, [("add", {"a": i, "ü": "<&>"})])
        if style == "qwen3":
            message["reasoning_content"] = "so"
        answer = {"role": "tool", "name": "add", "tool_call_id": "callid000", "content": f"It is {i}."}
        messages += [message, answer]
    reply = {"role": "assistant", "content": "It is four."}
    messages.append({**reply, "reasoning_content": "so"} if style == "qwen3" else reply)
    ids, mask = conversation_ids(renderer, messages, tools=TOOLS)
    whole = renderer.prompt_ids(messages, tools=TOOLS, add_generation_prompt=False)
    assert ids == whole[: len(ids)]
    assert renderer.decode(whole[len(ids) :]).strip() == ""
    trained = renderer.decode([i for i, is_trained in zip(ids, mask, strict=True) if is_trained])
    turns = trained.split(renderer.decode([renderer.end_of_turn_id]))[:3]
    form = detect_format(renderer)
    assert [len(form.parse(turn).calls) for turn in turns] == [1, 1, 0]
    assert form.parse(turns[2]).content.strip() == "It is four."


def test_a_reply_goes_into_the_next_rendering(tool_renderers):
    """The record's own message is one that the template takes."""
    renderer = tool_renderers["qwen3"]
    text = (
        '<think>\nso\n</think>\n\nI add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    )
    message = detect_format(renderer).parse(text).message()
    assert message["reasoning_content"] == "so"
    assert text in renderer.render([USER, message], tools=TOOLS)


def test_deepseek_templates_get_arguments_as_text(tool_renderers):
    text = tool_renderers["deepseek"].render([USER, made("deepseek", [("add", {"ü": None})])])
    assert '```json\n{"ü": null}\n```' in text

"""A model's own description of its replies: read as transformers reads it, and stricter where that guesses."""

import pytest
from chat_styles import STYLES, write_folder
from transformers.utils.chat_parsing import parse_response

from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import detect_format, named_format
from rnow_core.errors import RnowError

FUNCTION = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
GEMMA4 = {
    "defaults": {"role": "assistant"},
    "start_anchor": ["<|turn>model\n", "<tool_response|>"],
    "fields": {
        "thinking": {"open": "<|channel>thought\n", "close": "<channel|>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "repeats": True,
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": FUNCTION,
        },
        "content": {"close": ["<turn|>", "<eos>"], "content": "text"},
    },
}
TAGS = {
    "start_anchor_pattern": r"<\|im_start\|>assistant\n",
    "fields": {
        "thinking": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open_pattern": r"\s*<call>\s*<f=(?P<name>[^>\n]+)>",
            "close_pattern": r"</f>\s*</call>",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"<p=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</p>"},
            "transform": FUNCTION,
        },
        "content": {"content": "text"},
    },
}
LISTED = {
    "start_anchor": "A:",
    "fields": {
        "tool_calls": {
            "open": "[CALLS]",
            "content": "json",
            "transform_each": True,
            "transform": {"function": {"name": "{name}", "arguments": "{parameters}"}},
        },
        "content": {},
    },
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def renderer_of(tmp_path_factory):
    def make(template, style="qwen3"):
        chat = STYLES["qwen3"][0].replace("<tool_call>", "<unknown>")
        folder = tmp_path_factory.mktemp("described")
        return Renderer.load(write_folder(folder, style, chat_template=chat, response_template=template))

    return make


@pytest.mark.parametrize(
    ("template", "prompt", "text"),
    [
        (GEMMA4, "<|turn>model\n", "Just text.<turn|>"),
        (
            GEMMA4,
            "x<|turn>model\n",
            '<|channel>thought\nhm<channel|><|tool_call>call:f{a:1,b:<|"|>{x: "1"},<|"|>}<tool_call|>',
        ),
        (
            GEMMA4,
            "<|turn>model\n",
            "<|tool_call>call:f{a:1}<tool_call|><|tool_call>call:g{n:{m:[true,null]}}<tool_call|>",
        ),
        (
            TAGS,
            "<|im_start|>assistant\n<think>\n",
            "so\n</think>\n\nNow.\n<call>\n<f=f>\n<p=a>\n3\n</p>\n<p=b>\n4\n</p>\n</f>\n</call>",
        ),
        (
            LISTED,
            "Q A:",
            'Well. [CALLS][{"name": "f", "parameters": {"a": 1}}, {"name": "g", "parameters": {}}]',
        ),
    ],
)
def test_replies_are_read_as_transformers_reads_them(renderer_of, template, prompt, text):
    expected = parse_response(text, template, prefix=prompt, tools=TOOLS)
    form = detect_format(renderer_of(template))
    assert form.name == "response_template"
    reply = form.parse(text, prompt=prompt, tools=TOOLS)
    assert reply.problems == ()
    assert reply.content == expected.get("content", "")
    assert reply.reasoning == expected.get("thinking")
    calls = [{"name": call.name, "arguments": call.arguments} for call in reply.calls]
    assert calls == [call["function"] for call in expected.get("tool_calls", [])]


@pytest.mark.parametrize(
    ("template", "text", "message"),
    [
        (GEMMA4, "<|tool_call>call:f{a:}<tool_call|>", "invalid JSON"),
        (GEMMA4, "<|tool_call>call:f{a:1", "not closed"),
        (GEMMA4, "<|tool_call>call:f[1]<tool_call|>", "got a list"),
        (TAGS, "<call><f=f><p=a>1</p><p=a>2</p></f></call>", "given twice"),
        (LISTED, '[CALLS][{"name": "f"}]', 'no "parameters"'),
        (LISTED, "[CALLS][1]", "list of objects"),
    ],
)
def test_malformed_calls_are_problems(renderer_of, template, text, message):
    reply = detect_format(renderer_of(template)).parse(f"Hm. {text}")
    assert (reply.content, reply.calls) == ("Hm.", ())
    assert [message in problem.message for problem in reply.problems] == [True]
    assert "<unknown>" in reply.problems[0].message


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({**GEMMA4, "version": 2}, "version 2"),
        ({**GEMMA4, "extra": 1}, "unknown keys"),
        ({"start_anchor": "A:", "fields": {"content": {}}}, "tool_calls"),
        ({"start_anchor": "A:", "fields": {"tool_calls": {"open_pattern": "("}}}, "cannot be used"),
        ({"start_anchor": "A:", "fields": {"tool_calls": {"open": "x", "content": "yaml"}}}, "'yaml'"),
        (
            {
                "start_anchor": "A:",
                "fields": {"tool_calls": {"content": "xml-inline", "content_args": {"tag_pattern": "x"}}},
            },
            "no groups key and value",
        ),
        ("text", "cannot be used"),
    ],
)
def test_a_description_that_cannot_be_used(renderer_of, broken, message):
    with pytest.raises(RnowError, match=message):
        named_format("response_template", renderer_of(broken))


def test_a_known_form_is_read_by_its_own_parser(tmp_path):
    """It knows that a closing marker in a JSON string closes nothing."""
    renderer = Renderer.load(write_folder(tmp_path, "qwen3", response_template=GEMMA4))
    assert detect_format(renderer).name == "hermes"
    assert named_format("response_template", renderer).name == "response_template"

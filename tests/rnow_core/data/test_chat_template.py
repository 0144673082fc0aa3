"""Chat templates: where they stand, what they are given, and what is said when they refuse."""

import json

import pytest
from chat_styles import STYLES, TOOLS, write_folder
from transformers import AutoTokenizer

from rnow_core.data.chat_template import TemplateRefused
from rnow_core.data.renderer import Renderer
from rnow_core.types import Prompt

USER = {"role": "user", "content": "What is two plus two?"}
SYSTEM = {"role": "system", "content": "Think step by step."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "add", "arguments": {"a": 2, "ü": "<&>"}},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "add", "content": "4 é"}


@pytest.mark.parametrize("form", ["jinja file", "list", "list and files"])
def test_where_a_template_may_stand(tmp_path, form):
    tool_use = "{{ 'with tools' }}"
    both = [{"name": "default", "template": STYLES["chatml"][0]}, {"name": "tool_use", "template": tool_use}]
    folder = write_folder(tmp_path, "chatml", chat_template=None if form == "jinja file" else both)
    if form != "list":
        (folder / "chat_template.jinja").write_text(STYLES["qwen3"][0])
    if form == "list and files":
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(tool_use)
    renderer, reference = Renderer.load(folder), AutoTokenizer.from_pretrained(folder)
    for tools in (None, TOOLS):
        expected = reference.apply_chat_template([USER], tools=tools, return_dict=False)
        assert list(renderer.prompt_ids([USER], tools=tools, add_generation_prompt=False)) == expected


def test_arguments_are_never_encoded_twice(renderers):
    call = CALL["tool_calls"][0]
    as_text = {**call, "function": {"name": "add", "arguments": json.dumps(call["function"]["arguments"])}}
    messages = [USER, {**CALL, "tool_calls": [as_text]}, RESULT]
    for style in ("qwen3", "llama", "mistral"):
        same = renderers[style].render([USER, CALL, RESULT], tools=TOOLS)
        assert renderers[style].render(messages, tools=TOOLS) == same
    assert '"arguments": {"a": 2, "ü": "<&>"}' in renderers["qwen3"].render(messages, tools=TOOLS)


def test_text_parts_are_joined_instead_of_dropped(renderers):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "two plus two?"}]
    for renderer in renderers.values():
        assert renderer.prompt_ids([{"role": "user", "content": parts}]) == renderer.prompt_ids([USER])


def test_a_refused_system_message_says_what_to_do_and_where(renderers):
    row = Prompt(index=3, messages=(SYSTEM, USER), file="train.jsonl", line=4)
    with pytest.raises(TemplateRefused, match="System role not supported") as caught:
        renderers["gemma"].prompt_ids(row.messages)
    assert "first user message" in caught.value.hint
    with pytest.raises(TemplateRefused, match=r"^train\.jsonl:4: .*System role not supported") as caught:
        renderers["gemma"].render_row(row)
    assert "first user message" in caught.value.hint


def test_roles_that_do_not_alternate(renderers):
    with pytest.raises(TemplateRefused) as caught:
        renderers["gemma"].prompt_ids([USER, USER])
    assert "user, user" in caught.value.hint


def test_templates_run_in_a_sandbox(tmp_path):
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    renderer = Renderer.load(write_folder(tmp_path, "chatml", chat_template=evil))
    with pytest.raises(TemplateRefused):
        renderer.prompt_ids([USER])

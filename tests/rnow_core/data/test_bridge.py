"""Turns continued without rendering history again, and conversations to imitate built the same way."""

import pytest
from chat_styles import CHATML, STYLES, TOOLS, byte_level, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from rnow_core.data.bridge import BridgeError, conversation_ids, turn_ids
from rnow_core.data.renderer import Renderer
from rnow_core.errors import RnowError

USER = {"role": "user", "content": "What is two plus two?"}
MORE = {"role": "user", "content": "And three?"}
REPLY = {"role": "assistant", "content": "It is four."}
THOUGHT = {**REPLY, "reasoning_content": "two and two"}


def call(*ids):
    calls = [{"id": i, "type": "function", "function": {"name": "add", "arguments": {"a": 1}}} for i in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(call_id, content="4"):
    return {"role": "tool", "tool_call_id": call_id, "name": "add", "content": content}


def segments(renderer, ids, mask):
    """The text as runs of (trained, text)."""
    runs = []
    for token, trained in zip(ids, mask, strict=True):
        if not runs or runs[-1][0] != trained:
            runs.append((trained, []))
        runs[-1][1].append(token)
    return [(trained, renderer.decode(run)) for trained, run in runs]


@pytest.mark.parametrize(
    ("style", "glue"),
    [
        ("chatml", "\n<|im_start|>user\nAnd three?<|im_end|>\n<|im_start|>assistant\n"),
        ("qwen3", "\n<|im_start|>user\nAnd three?<|im_end|>\n<|im_start|>assistant\n"),
        (
            "llama",
            "<|start_header_id|>user<|end_header_id|>\n\nAnd three?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "[INST] And three?[/INST]"),
        ("gemma", "\n<start_of_turn>user\nAnd three?<end_of_turn>\n<start_of_turn>model\n"),
    ],
)
def test_a_user_message_between_two_turns(renderers, style, glue):
    renderer = renderers[style]
    got = turn_ids(renderer, [MORE])
    assert renderer.decode(got) == glue
    history = renderer.prompt_ids([USER, REPLY, MORE])
    assert history[-len(got) :] == got


def test_tools_are_not_listed_again(renderers):
    for style in ("qwen3", "llama", "mistral"):
        assert "Adds" in renderers[style].render([USER], tools=TOOLS)
        assert "Adds" not in renderers[style].decode(turn_ids(renderers[style], [MORE], tools=TOOLS))


def test_thinking_off_puts_the_empty_block_into_the_glue(renderers):
    renderer = renderers["qwen3"]
    text = renderer.decode(turn_ids(renderer, [MORE], enable_thinking=False))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("style", "glue"),
    [
        (
            "qwen3",
            "\n<|im_start|>user\n<tool_response>\n4\n</tool_response>\n<tool_response>\n5\n</tool_response>"
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "mistral",
            '[TOOL_RESULTS] {"content": "4", "call_id": "call00001"}[/TOOL_RESULTS]'
            '[TOOL_RESULTS] {"content": "5", "call_id": "call00002"}[/TOOL_RESULTS]',
        ),
    ],
)
def test_consecutive_tool_results_stand_together(renderers, style, glue):
    new = [result("call00001"), result("call00002", "5")]
    previous = call("call00001", "call00002")
    renderer = renderers[style]
    assert renderer.decode(turn_ids(renderer, new, tools=TOOLS, previous_assistant=previous)) == glue
    assert renderer.decode(turn_ids(renderer, new, tools=TOOLS)) == glue


def test_a_template_that_drops_the_text_beside_a_call(renderers):
    renderer = renderers["llama"]
    text = renderer.decode(turn_ids(renderer, [result("x")], tools=TOOLS, previous_assistant=call("x")))
    assert text.startswith('<|start_header_id|>ipython<|end_header_id|>\n\n"4"<|eot_id|>')
    assert text.endswith("assistant<|end_header_id|>\n\n")


def test_messages_that_contain_the_sentinel(renderers):
    new = {"role": "user", "content": "sentinel sentinelx"}
    text = renderers["chatml"].decode(turn_ids(renderers["chatml"], [new]))
    assert text == "\n<|im_start|>user\nsentinel sentinelx<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 'nothing' }}", "does not write"),
        (CHATML + CHATML, "2 times"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "no end-of-turn"),
    ],
)
def test_templates_that_cannot_be_continued(tmp_path, template, message):
    renderer = Renderer.load(write_folder(tmp_path, "chatml", chat_template=template))
    with pytest.raises(BridgeError, match=message):
        turn_ids(renderer, [MORE])


def test_masks_of_a_conversation_with_reasoning_in_some_turns(renderers):
    renderer = renderers["qwen3"]
    ids, mask = conversation_ids(renderer, [USER, THOUGHT, MORE, REPLY])
    assert segments(renderer, ids, mask) == [
        (False, "<|im_start|>user\nWhat is two plus two?<|im_end|>\n<|im_start|>assistant\n"),
        (True, "<think>\ntwo and two\n</think>\n\nIt is four.<|im_end|>"),
        (
            False,
            "\n<|im_start|>user\nAnd three?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        (True, "It is four.<|im_end|>"),
    ]


def test_reasoning_written_into_the_content(renderers):
    inline = {"role": "assistant", "content": "<think>\ntwo and two\n</think>\n\nIt is four."}
    split = conversation_ids(renderers["qwen3"], [USER, THOUGHT])
    assert conversation_ids(renderers["qwen3"], [USER, inline]) == split


def test_masks_with_thinking_off(renderers):
    renderer = renderers["qwen3"]
    ids, mask = conversation_ids(renderer, [USER, REPLY, MORE, REPLY], enable_thinking=False)
    runs = segments(renderer, ids, mask)
    assert [text for trained, text in runs if trained] == ["It is four.<|im_end|>"] * 2
    assert all(text.endswith("<think>\n\n</think>\n\n") for trained, text in runs if not trained)
    assert renderer.decode(ids).count("<think>") == 2


def test_reasoning_in_the_data_with_thinking_off(renderers):
    with pytest.raises(BridgeError, match="thinking is off") as caught:
        conversation_ids(renderers["qwen3"], [USER, THOUGHT], enable_thinking=False)
    assert "reasoning_mode" in caught.value.hint


def test_masks_of_a_tool_loop(renderers):
    renderer = renderers["qwen3"]
    messages = [USER, call("a", "b"), result("a"), result("b", "5"), {**REPLY, "reasoning_content": "so"}]
    ids, mask = conversation_ids(renderer, messages, tools=TOOLS)
    trained = [text for is_trained, text in segments(renderer, ids, mask) if is_trained]
    one = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert trained == [f"{one}\n{one}<|im_end|>", "<think>\nso\n</think>\n\nIt is four.<|im_end|>"]


@pytest.mark.parametrize("style", ["llama", "mistral"])
def test_tool_loops_of_other_styles(renderers, style):
    messages = [USER, call("call00001"), result("call00001"), REPLY]
    renderer = renderers[style]
    ids, mask = conversation_ids(renderer, messages, tools=TOOLS)
    whole = renderer.prompt_ids(messages, tools=TOOLS, add_generation_prompt=False)
    assert ids == whole
    assert [text.strip() for trained, text in segments(renderer, ids, mask) if trained] == {
        "llama": ['{"name": "add", "parameters": {"a": 1}}<|eot_id|>', "It is four.<|eot_id|>"],
        "mistral": [
            '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "call00001"}]</s>',
            "It is four.</s>",
        ],
    }[style]


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=4, max_size=4), style=st.sampled_from(sorted(STYLES)))
def test_a_conversation_equals_its_rendering_where_the_template_keeps_history(renderers, texts, style):
    """Templates that write every turn in one way: turn by turn gives the ids of one rendering."""
    renderer = renderers["chatml" if style == "qwen3" else style]
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    ids, mask = conversation_ids(renderer, messages)
    whole = renderer.prompt_ids(messages, add_generation_prompt=False)
    assert renderer.decode(whole).removeprefix(renderer.decode(ids)).strip() == ""
    if all(text == text.lstrip() for text in texts):  # else a line break may merge with the header's
        assert whole[: len(ids)] == ids
    first = renderer.prompt_ids(messages[:1])
    assert ids[: len(first)] == first
    assert sum(ids[i] == renderer.end_of_turn_id for i, trained in enumerate(mask) if trained) == 2
    assert not any(mask[: len(first)])


def test_training_ids_equal_rollout_ids(renderers):
    """A rollout: prompt, sampled ids, glue, sampled ids. The same conversation as data gives the same ids."""
    renderer = renderers["qwen3"]
    first = renderer.encode("<think>\ntwo and two\n</think>\n\nIt is four.<|im_end|>")
    second = renderer.encode("<think>\nso\n</think>\n\nSix.<|im_end|>")
    rollout = (*renderer.prompt_ids([USER]), *first, *turn_ids(renderer, [MORE]), *second)
    data = [USER, THOUGHT, MORE, {"role": "assistant", "content": "Six.", "reasoning_content": "so"}]
    assert conversation_ids(renderer, data)[0] == rollout
    assert renderer.prompt_ids(data, add_generation_prompt=False)[: len(rollout)] != rollout


def test_a_generation_prompt_that_opens_the_thinking(tmp_path):
    template = STYLES["qwen3"][0].replace(
        "{{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is",
        "{{- '<|im_start|>assistant\\n<think>\\n' }}\n    {%- if enable_thinking is",
    )
    renderer = Renderer.load(write_folder(tmp_path, "qwen3", chat_template=template))
    assert renderer.render([USER]).endswith("assistant\n<think>\n")
    trained = []
    for reply in (THOUGHT, REPLY):
        ids, mask = conversation_ids(renderer, [USER, reply])
        assert renderer.decode(ids).count("<think>") == 1
        trained.append([text for is_trained, text in segments(renderer, ids, mask) if is_trained])
    assert trained == [["two and two\n</think>\n\nIt is four.<|im_end|>"], ["It is four.<|im_end|>"]]


def test_an_empty_block_that_only_the_generation_prompt_has(tmp_path):
    template = CHATML.replace("assistant\\n' }}", "assistant\\n<think>\\n\\n</think>\\n\\n' }}")
    renderer = Renderer.load(write_folder(tmp_path, "chatml", chat_template=template))
    ids, mask = conversation_ids(renderer, [USER, REPLY])
    assert segments(renderer, ids, mask) == [
        (False, renderer.render([USER])),
        (True, "It is four.<|im_end|>"),
    ]


def test_a_seam_that_would_merge_keeps_the_prompt_ids(tmp_path):
    """The header ends with a newline and the reply is one: rendered together they are another token."""
    tokenizer = byte_level(STYLES["chatml"][1], [])
    assert len(tokenizer.encode("\n\n").ids) == 1
    renderer = Renderer.load(write_folder(tmp_path, "chatml", tokenizer))
    ids, _ = conversation_ids(renderer, [USER, {"role": "assistant", "content": "\n"}])
    prompt = renderer.prompt_ids([USER])
    assert ids[: len(prompt)] == prompt
    assert renderer.decode(ids[len(prompt) :]) == "\n<|im_end|>"
    assert ids != renderer.prompt_ids(
        [USER, {"role": "assistant", "content": "\n"}], add_generation_prompt=False
    )


def test_messages_behind_the_last_assistant_turn_are_left_out(renderers):
    renderer = renderers["chatml"]
    assert conversation_ids(renderer, [USER, REPLY, MORE]) == conversation_ids(renderer, [USER, REPLY])


@pytest.mark.parametrize("messages", [[USER], [REPLY, USER]])
def test_nothing_to_imitate(renderers, messages):
    with pytest.raises(RnowError, match="assistant message"):
        conversation_ids(renderers["chatml"], messages)

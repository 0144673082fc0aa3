"""The renderer against transformers' own, its stop ids, pieces and fingerprint."""

import subprocess
import sys

import pytest
from chat_styles import STYLES, TOOLS, byte_level, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from rnow_core.data.renderer import Renderer, template_options
from rnow_core.types import Prompt

USER = {"role": "user", "content": "What is two plus two?"}
SYSTEM = {"role": "system", "content": "Think step by step."}
REPLY = {"role": "assistant", "content": "It is four."}
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

CONVERSATIONS = {
    "one question": ([USER], None),
    "several turns": ([USER, REPLY, {"role": "user", "content": "Sure?\n\n  你好 🙂"}], None),
    "system": ([SYSTEM, USER], None),
    "tools": ([SYSTEM, USER], TOOLS),
    "tool loop": ([USER, CALL, RESULT], TOOLS),
}
TOOLLESS = {"chatml", "gemma"}
CASES = [
    (style, name)
    for style in STYLES
    for name in CONVERSATIONS
    if not (style in TOOLLESS and name.startswith("tool")) and not (style == "gemma" and name == "system")
]


@pytest.fixture(scope="module")
def references(folders):
    return {style: AutoTokenizer.from_pretrained(folder) for style, folder in folders.items()}


@pytest.mark.parametrize(("style", "name"), CASES)
@pytest.mark.parametrize("generate", [True, False])
@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}])
def test_prompts_equal_apply_chat_template(renderers, references, style, name, generate, options):
    messages, tools = CONVERSATIONS[name]
    expected = references[style].apply_chat_template(
        messages, tools=tools, add_generation_prompt=generate, return_dict=False, **options
    )
    got = renderers[style].prompt_ids(messages, tools=tools, add_generation_prompt=generate, **options)
    assert list(got) == expected
    assert len(got) > 4


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=60), style=st.sampled_from(sorted(STYLES)))
def test_any_text_equals_apply_chat_template(renderers, references, text, style):
    messages = [{"role": "user", "content": text}]
    expected = references[style].apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(renderers[style].prompt_ids(messages)) == expected


def test_bos_stands_once_although_the_tokenizer_would_add_it(tmp_path):
    special = STYLES["llama"][1]
    tokenizer = byte_level(special, [])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    ids = Renderer.load(write_folder(tmp_path, "llama", tokenizer)).prompt_ids([USER])
    assert ids.count(0) == 1


@pytest.mark.parametrize(
    ("style", "names"),
    [
        ("chatml", ["<|im_end|>"]),
        ("qwen3", ["<|im_end|>"]),
        ("llama", ["<|eot_id|>"]),
        ("mistral", ["</s>"]),
        ("gemma", ["<end_of_turn>", "<eos>"]),
    ],
)
def test_stop_ids(renderers, style, names):
    assert renderers[style].stop_ids == tuple(renderers[style].encode(name)[0] for name in names)
    assert renderers[style].end_of_turn_id == renderers[style].stop_ids[0]


def test_decode_can_leave_special_tokens_out(renderers):
    ids = renderers["chatml"].prompt_ids([USER])
    assert (
        renderers["chatml"].decode(ids, skip_special_tokens=True) == f"user\n{USER['content']}\nassistant\n"
    )


def test_render_row_gives_text_and_its_ids(renderers):
    row = Prompt(index=0, messages=(USER,), file="train.jsonl", line=1)
    text, ids = renderers["llama"].render_row(row)
    assert text == renderers["llama"].render([USER])
    assert ids == renderers["llama"].prompt_ids([USER])


def test_reasoning_modes(renderers):
    off = renderers["qwen3"].render([USER], **template_options("disabled"))
    assert off.endswith("<think>\n\n</think>\n\n")
    assert template_options("none") == template_options("disabled")
    assert template_options(None) == {}
    assert template_options("high") == {"enable_thinking": True, "reasoning_effort": "high"}
    assert renderers["qwen3"].render([USER], **template_options("low")).endswith("<|im_start|>assistant\n")


def test_loading_imports_no_heavy_package(folders):
    code = f"""
import sys
from rnow_core.data import batches, bridge, rows
from rnow_core.data.renderer import Renderer
ids = Renderer.load({str(folders["qwen3"])!r}).prompt_ids([{USER!r}])
heavy = {{"torch", "transformers", "peft", "huggingface_hub", "numpy"}} & set(sys.modules)
assert ids and not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)

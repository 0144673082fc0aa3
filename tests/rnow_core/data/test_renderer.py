"""The renderer against transformers' own, its stop ids, pieces and fingerprint."""

import json
import subprocess
import sys

import pytest
from chat_styles import STYLES, TOOLS, byte_level, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import AutoTokenizer

from rnow_core.data.chat_template import TemplateRefused
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.errors import RnowError
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


def test_truncation_in_the_tokenizer_file_is_ignored(tmp_path):
    tokenizer = byte_level(STYLES["chatml"][1], [])
    whole = tokenizer.encode("The quick brown fox").ids
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    assert (
        list(Renderer.load(write_folder(tmp_path, "chatml", tokenizer)).encode("The quick brown fox"))
        == whole
    )


@pytest.mark.parametrize("name", ["extra_special_tokens", "additional_special_tokens"])
def test_tokens_that_only_the_config_lists(tmp_path, name):
    listed = {"content": "<listed>", "lstrip": False, "rstrip": True, "normalized": False, "special": True}
    size = byte_level(STYLES["chatml"][1], []).get_vocab_size()
    config = {
        "added_tokens_decoder": {str(size): listed},
        "pad_token": "<pad-me>",
        name: ["<one>", "<pad-me>"],
    }
    folder = write_folder(tmp_path, "chatml", **config)
    renderer, reference = Renderer.load(folder), AutoTokenizer.from_pretrained(folder)
    text = "a<listed> b<pad-me>c<one>"
    assert list(renderer.encode(text)) == reference(text, add_special_tokens=False)["input_ids"]
    assert {size, size + 1, size + 2} <= set(renderer.encode(text))
    assert renderer.vocab_size == len(reference) == size + 3


def test_an_older_special_tokens_map(tmp_path):
    folder = write_folder(tmp_path, "llama", bos_token=None, eos_token=None)
    bos, eos = ({"content": content, "lstrip": False} for content in ("<|begin_of_text|>", "<|end_of_text|>"))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": bos, "eos_token": eos}))
    renderer, reference = Renderer.load(folder), AutoTokenizer.from_pretrained(folder)
    expected = reference.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    assert list(renderer.prompt_ids([USER])) == expected
    assert renderer.eos_id == reference.eos_token_id == 1


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


def test_only_eos_is_read_from_generation_config(tmp_path):
    folder = write_folder(tmp_path, "chatml", eos_token="<|endoftext|>")
    generation = {"eos_token_id": [2, 0, 77], "top_k": 20, "temperature": 0.6, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    renderer = Renderer.load(folder)
    assert renderer.stop_ids == (2, 0, 77)
    assert renderer.eos_id == 0
    (folder / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert Renderer.load(folder).stop_ids == (2, 0, 9)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=60), style=st.sampled_from(sorted(STYLES)))
def test_pieces_of_a_text_join_to_it(renderers, text, style):
    renderer = renderers[style]
    ids = renderer.prompt_ids([{"role": "user", "content": text}])
    pieces = renderer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == renderer.decode(ids)


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, 400), max_size=40))
def test_pieces_of_any_ids_join_to_their_text(renderers, ids):
    renderer = renderers["qwen3"]
    pieces = renderer.pieces(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == renderer.decode(ids)


def test_a_character_of_several_tokens_is_shown_at_its_last(renderers):
    renderer = renderers["chatml"]
    ids = renderer.encode("a\N{EGYPTIAN HIEROGLYPH A001}b")
    pieces = renderer.pieces(ids)
    assert len(ids) > 3
    assert pieces[0] == "a"
    assert set(pieces[1:-2]) == {""}
    assert pieces[-2:] == ["\N{EGYPTIAN HIEROGLYPH A001}", "b"]
    assert renderer.pieces(ids[:2])[-1] == "\N{REPLACEMENT CHARACTER}"


def test_decode_can_leave_special_tokens_out(renderers):
    ids = renderers["chatml"].prompt_ids([USER])
    assert (
        renderers["chatml"].decode(ids, skip_special_tokens=True) == f"user\n{USER['content']}\nassistant\n"
    )


def test_fingerprint(tmp_path, folders):
    special = STYLES["chatml"][1]
    base = Renderer.load(folders["chatml"])
    tokenizer = byte_level(special, [])
    tokenizer.enable_truncation(8)
    padded = write_folder(tmp_path / "same", "chatml", tokenizer, eos_token="<|endoftext|>")
    (padded / "config.json").write_text('{"vocab_size": 512}')
    assert Renderer.load(padded).fingerprint() == base.fingerprint()

    swapped = json.loads(byte_level(special, []).to_str())
    vocab = swapped["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (tmp_path / "same" / "tokenizer.json").write_text(json.dumps(swapped))
    other = Renderer.load(tmp_path / "same")
    assert other.vocab_size == base.vocab_size
    assert other.fingerprint() != base.fingerprint()

    merges = json.loads(byte_level(special, []).to_str())
    merges["model"]["merges"].reverse()
    (tmp_path / "same" / "tokenizer.json").write_text(json.dumps(merges))
    assert Renderer.load(tmp_path / "same").fingerprint() != base.fingerprint()


def test_reasoning_modes(renderers):
    off = renderers["qwen3"].render([USER], **template_options("disabled"))
    assert off.endswith("<think>\n\n</think>\n\n")
    assert template_options("none") == template_options("disabled")
    assert template_options(None) == {}
    assert template_options("high") == {"enable_thinking": True, "reasoning_effort": "high"}
    assert renderers["qwen3"].render([USER], **template_options("low")).endswith("<|im_start|>assistant\n")


def test_a_refused_system_message_says_what_to_do_and_where(renderers):
    row = Prompt(index=3, messages=(SYSTEM, USER), file="train.jsonl", line=4)
    with pytest.raises(TemplateRefused, match="System role not supported") as caught:
        renderers["gemma"].prompt_ids(row.messages)
    assert "first user message" in caught.value.hint
    with pytest.raises(TemplateRefused, match=r"^train\.jsonl:4: .*System role not supported") as caught:
        renderers["gemma"].render_row(row)
    assert "first user message" in caught.value.hint


def test_render_row_gives_text_and_its_ids(renderers):
    row = Prompt(index=0, messages=(USER,), file="train.jsonl", line=1)
    text, ids = renderers["llama"].render_row(row)
    assert text == renderers["llama"].render([USER])
    assert ids == renderers["llama"].prompt_ids([USER])


def test_roles_that_do_not_alternate(renderers):
    with pytest.raises(TemplateRefused) as caught:
        renderers["gemma"].prompt_ids([USER, USER])
    assert "user, user" in caught.value.hint


def test_templates_run_in_a_sandbox(tmp_path):
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    renderer = Renderer.load(write_folder(tmp_path, "chatml", chat_template=evil))
    with pytest.raises(TemplateRefused):
        renderer.prompt_ids([USER])


def _break(folder, what):
    if what == "no folder":
        return folder / "nowhere"
    if what == "a file":
        return folder / "tokenizer.json"
    if what == "no tokenizer.json":
        (folder / "tokenizer.json").unlink()
    elif what == "broken tokenizer.json":
        (folder / "tokenizer.json").write_text("{")
    elif what == "broken config":
        (folder / "tokenizer_config.json").write_text("[]")
    elif what == "broken template":
        (folder / "chat_template.jinja").write_text("{% if x %}\n{{ y")
    else:
        (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("what", "message", "hint"),
    [
        ("no folder", "no model folder .*nowhere", "Hugging Face id"),
        ("a file", "is a file", ""),
        ("no tokenizer.json", "no tokenizer.json", "save_pretrained"),
        ("broken tokenizer.json", "not a tokenizer file", ""),
        ("broken config", "tokenizer_config.json: expected a JSON object", ""),
        ("broken template", "line 2", ""),
        ("no template", "no chat template", "instruction-tuned"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, what, message, hint):
    source = _break(write_folder(tmp_path / "model", "chatml"), what)
    with pytest.raises(RnowError, match=message) as caught:
        Renderer.load(source)
    assert hint in caught.value.hint


def test_a_hub_id_without_connection(tmp_path, monkeypatch):
    code = """
import sys
from rnow_core.data.renderer import Renderer
from rnow_core.errors import EnvironmentMissing
try:
    Renderer.load("nobody/has-this-model")
except EnvironmentMissing as error:
    print(error.message, "|", error.hint)
"""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "nobody/has-this-model is not in the local cache" in done.stdout
    assert "local folder" in done.stdout


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

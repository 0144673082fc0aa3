"""Which files of a model folder count, and what is said when one is missing or broken."""

import json
import subprocess
import sys

import httpx2
import pytest
from chat_styles import STYLES, byte_level, write_folder
from huggingface_hub import errors
from transformers import AutoTokenizer

from rnow_core.data.renderer import Renderer
from rnow_core.errors import EnvironmentMissing, RnowError

USER = {"role": "user", "content": "What is two plus two?"}


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


def test_only_eos_is_read_from_generation_config(tmp_path):
    folder = write_folder(tmp_path, "chatml", eos_token="<|endoftext|>")
    generation = {"eos_token_id": [2, 0, 77], "top_k": 20, "temperature": 0.6, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    renderer = Renderer.load(folder)
    assert renderer.stop_ids == (2, 0, 77)
    assert renderer.eos_id == 0
    (folder / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert Renderer.load(folder).stop_ids == (2, 0, 9)


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
    elif what == "latin-1 template":
        (folder / "chat_template.jinja").write_bytes(b"caf\xe9")
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
        ("latin-1 template", "not UTF-8", ""),
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


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("GatedRepoError", EnvironmentMissing, "some/model is gated"),
        ("RepositoryNotFoundError", RnowError, "no folder some/model"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, name, kind, message):
    """The hub's own exceptions, raised in place of a download."""
    response = httpx2.Response(401, request=httpx2.Request("GET", "https://huggingface.co/some/model"))

    def refuse(*_, **__):
        raise getattr(errors, name)("refused", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(kind, match=message) as caught:
        Renderer.load("some/model")
    assert "HF_TOKEN" in caught.value.hint

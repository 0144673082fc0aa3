"""Two tokenizers are the same when text and ids mean the same in both."""

import json

from chat_styles import STYLES, byte_level, write_folder

from rnow_core.data.renderer import Renderer


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

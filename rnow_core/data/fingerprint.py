"""Says whether two tokenizers are the same: equal text gives equal ids, and an id means the same bytes."""

from __future__ import annotations

import json
from hashlib import blake2b

from tokenizers import Tokenizer

_MATCHING = ("id", "content", "single_word", "lstrip", "rstrip", "normalized")


def fingerprint(tokenizer: Tokenizer) -> str:
    """32 hex digits over vocabulary, merges, normaliser, pre-tokeniser, decoder and added tokens.

    Left out on purpose: which token is called eos or pad, truncation, padding, and the post-processor (chat
    templates do without it), so that the base and the chat form of one model family compare equal.
    """
    state = json.loads(tokenizer.to_str())
    identity = {key: state[key] for key in ("normalizer", "pre_tokenizer", "model", "decoder")}
    identity["added_tokens"] = [{key: token[key] for key in _MATCHING} for token in state["added_tokens"]]
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

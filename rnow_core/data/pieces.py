"""Cuts decoded text into one piece per token, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def text_pieces(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """One string per id; joined they are `decode(ids)` as far as the tokenizer allows.

    A token that ends inside a character gets an empty piece, and the token that completes the character gets
    all of it. Each piece is what a token adds to a short window before it, because some decoders treat the
    first token of a text in a special way.
    """
    pieces: list[str] = []
    window, done = 0, 0
    for end in range(1, len(ids) + 1):
        before, text = decode(ids[window:done]), decode(ids[window:end])
        if text.endswith(_UNFINISHED) and end < len(ids):
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        window, done = done, end
    return pieces

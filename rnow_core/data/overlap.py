"""Which prompts are also in an evaluation file: the same text, or most of the words that set a question apart.

Rows are compared by what the user says. `exact`: equal but for case and white space. `near`: of the words of a
question that lie in its own 8-word sequences, more than half lie in such sequences that the prompt has too. A
question's own sequences are those that no other question of the file has: an instruction that stands in all of them
says nothing. Eight words are short enough to find a question that was cut or continued, and rare by chance; the limit
of one half of the evaluated question is that of Lambert et al. 2024 (Tülu 3, arXiv:2411.15124, section 3.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal

WORDS = 8
SHARE = 0.5

_WORD = re.compile(r"\w+")
_SHARED = -1

Kind = Literal["exact", "near"]


class EvalTexts:
    """The questions of an evaluation file."""

    def __init__(self, texts: Iterable[str]) -> None:
        kept = {_normal(text): _words(text) for text in texts if text.strip()}
        self._exact = set(kept)
        self._owner: dict[int, tuple[int, int]] = {}
        """Hash of a sequence -> the question that has it, and where; _SHARED for those of several."""
        for number, words in enumerate(kept.values()):
            for place, key in _sequences(words):
                owner, _ = self._owner.get(key, (number, place))
                self._owner[key] = (number if owner == number else _SHARED, place)
        own: dict[int, set[int]] = {}
        for number, place in self._owner.values():
            own.setdefault(number, set()).update(range(place, place + WORDS))
        self._own = {number: len(places) for number, places in own.items()}

    def match(self, text: str) -> Kind | None:
        """Whether a prompt is one of the questions."""
        if _normal(text) in self._exact:
            return "exact"
        found: dict[int, set[int]] = {}
        for _, key in _sequences(_words(text)):
            number, place = self._owner.get(key, (_SHARED, 0))
            if number != _SHARED:
                found.setdefault(number, set()).update(range(place, place + WORDS))
        near = any(len(places) > SHARE * self._own[number] for number, places in found.items())
        return "near" if near else None


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _sequences(words: list[str]) -> Iterator[tuple[int, int]]:
    """(place, hash) of every WORDS words that follow one another."""
    for place in range(len(words) - WORDS + 1):
        yield place, hash(tuple(words[place : place + WORDS]))

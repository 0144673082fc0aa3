"""Splits the reasoning from a reply, and finds markers that stand outside reasoning."""

from __future__ import annotations

import re
from collections.abc import Callable

from rnow_core.data.tool_calls.records import Collector
from rnow_core.data.tool_calls.strict_json import Malformed

PAIRS = {"<think>": "</think>", "[THINK]": "[/THINK]"}
_OPENED = re.compile(r"(<think>|\[THINK\])\s*\Z")
_OPENS = re.compile(r"\s*(<think>|\[THINK\])")
_TAIL = 200

ReadOne = Callable[[str, "re.Match[str]", Collector], int]
"""Reads the calls of the block that a match opens; returns where it ends. Raises Malformed."""


def split_reasoning(text: str, prompt: str) -> tuple[str | None, str]:
    """(reasoning, the rest). The block is opened by the end of the prompt or by the beginning of the text.

    A block that is not closed is the whole reply: it was cut, and what looks like a call in it is none. An
    empty block is no reasoning.
    """
    opened, start = _OPENED.search(prompt[-_TAIL:]), 0
    if repeated := _OPENS.match(text):
        opened, start = repeated, repeated.end()
    if opened is None:
        return None, text
    reasoning, _, rest = text[start:].partition(PAIRS[opened.group(1)])
    return reasoning.strip("\n") or None, rest.lstrip("\n")


def read_blocks(text: str, out: Collector, opener: re.Pattern[str], read_one: ReadOne, close: str) -> None:
    """Content and calls of a text whose calls stand in blocks.

    Behind a malformed block reading goes on after the next `close`; with an empty `close`, or when there is
    none, the rest of the reply belongs to the malformed call: a marker in its strings is no call.
    """
    position, find = 0, _finder(text, opener)
    while not out.full and (start := find(position)):
        out.text(text[position : start.start()])
        try:
            position = read_one(text, start, out)
        except Malformed as error:
            position, what = _behind(text, start.end(), error, close)
            out.problem(what, text[start.start() : min(position, start.start() + 1000)])
    out.text(text[position:])


def _behind(text: str, start: int, error: Malformed, close: str) -> tuple[int, str]:
    """(where reading goes on, what was wrong)."""
    if error.resume is not None:
        return error.resume, str(error)
    found = text.find(close, start) if close else -1
    if found >= 0:
        return found + len(close), str(error)
    return len(text), f"{error}; the call is not closed with {close}" if close else str(error)


def _finder(text: str, opener: re.Pattern[str]) -> Callable[[int], re.Match[str] | None]:
    """Finds the next opener outside closed think blocks. A think marker without an end is text."""
    either = re.compile(f"(?:{opener.pattern})|(?P<think>{'|'.join(map(re.escape, PAIRS))})")
    last = {opens: text.rfind(closes) for opens, closes in PAIRS.items()}

    def find(position: int) -> re.Match[str] | None:
        while found := either.search(text, position):
            opens = found.group("think")
            if opens is None:
                return found
            closed = found.end() <= last[opens]
            position = text.find(PAIRS[opens], found.end()) if closed else found.end()
        return None

    return find

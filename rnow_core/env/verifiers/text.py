"""Where in a reply the answer stands. Linear in its length, whatever it contains; standard library only."""

from __future__ import annotations

import re
import unicodedata

TAIL = 20_000
"""Characters at the end of a reply in which an answer is looked for."""

_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_ANNOUNCED = re.compile(r"(?i)\banswers?\b[*_\s]*(?:is|are|:|=)[*_\s:]*")


def answer_text(reply: str) -> str:
    """The reply without its reasoning, at most its last TAIL characters; empty when the reasoning never ended."""
    before, closed, after = reply.rpartition("</think>")
    if closed:
        return after[-TAIL:].strip()
    return "" if before == "" and reply.lstrip().startswith("<think>") else reply[-TAIL:].strip()


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}` whose braces close; None without one."""
    starts = [match.end() for match in _BOXED.finditer(text)]
    if not starts:
        return None
    ends = _closing_braces(text)
    return next(
        (text[start : ends[start - 1]].strip() for start in reversed(starts) if start - 1 in ends), None
    )


def _closing_braces(text: str) -> dict[int, int]:
    """Place of each opening brace -> place of the one that closes it. Escaped braces are text."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    escaped = False
    for place, character in enumerate(text):
        if character == "{" and not escaped:
            opened.append(place)
        elif character == "}" and not escaped and opened:
            ends[opened.pop()] = place
        escaped = character == "\\" and not escaped
    return ends


def announced(text: str) -> str | None:
    """What stands behind the last `####`, or else the last "answer is", "answer:"; None without either."""
    _, mark, after = text.rpartition("####")
    if mark:
        return after.strip()
    ends = [found.end() for found in _ANNOUNCED.finditer(text)]
    return text[ends[-1] :].strip() if ends else None


def normal(text: str) -> str:
    """One spelling for text that looks the same: Unicode NFC, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())

"""Rows of `rnow generate --show`: their text token by token, with what is trained in colour or in brackets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from rnow.display import console
from rnow.display.console import harmless, paint
from rnow.display.lines import figures
from rnow_core.jobs.show_rows import Shown, ShownRow

LONG, END = 300, 100
"""Of a message of more than LONG tokens that is not trained, END of them are shown at each end."""


class Marks(NamedTuple):
    """What stands around trained text, and around the note that text is left out, where there is no colour."""

    opening: str
    closing: str
    note_opening: str
    note_closing: str


RARE, PLAIN = Marks("⟦", "⟧", "⟪", "⟫"), Marks("[[", "]]", "<<", ">>")


class Span(NamedTuple):
    """Text of one kind: trained or not, special tokens or not; `note` for words about the text."""

    text: str
    trained: bool = False
    special: bool = False
    note: bool = False


def row_data(row: ShownRow) -> dict[str, Any]:
    """The row as JSON-ready data; `mask` is 1 on trained tokens."""
    return {
        "row": row.number,
        "file": row.file,
        "line": row.line,
        "tokens": len(row.ids_T),
        "trained_tokens": sum(row.mask_T),
        "turns": row.turns,
        "tools": list(row.tools),
        "ids": list(row.ids_T),
        "mask": [int(trained) for trained in row.mask_T],
        "pieces": list(row.pieces_T),
        "text": "".join(row.pieces_T),
    }


def show_rows(shown: Shown, full: bool) -> None:
    """A legend, then each row: its figures, and its text as the student reads it."""
    colour = console.coloured(sys.stdout)
    marks = _marks(sys.stdout.encoding)
    console.out(_legend(shown, colour, marks))
    for row in shown.rows:
        console.out()
        console.out(paint(_title(row), "bold", colour))
        for line in row_lines(row, full, colour, marks):
            console.out(f"  {line}")


def row_lines(row: ShownRow, full: bool, colour: bool, marks: Marks = RARE) -> list[str]:
    """The text of a row in lines. Without colour `marks` stand around what is trained; text that has the same
    characters shows them as escapes.
    """
    spans = list(_spans(row, full))
    if colour:
        return "".join(_painted(span) for span in spans).split("\n")
    parts = []
    for trained, run in groupby(spans, key=lambda span: span.trained):
        text = "".join(_marked(span, marks) for span in run)
        parts.append(f"{marks.opening}{text}{marks.closing}" if trained else text)
    return "".join(parts).split("\n")


def _spans(row: ShownRow, full: bool) -> Iterator[Span]:
    """The row cut into pieces of one kind; in the middle of long messages that are not trained a note."""
    for trained, start, end in _messages(row):
        if full or trained or end - start <= LONG:
            yield from _pieces(row, start, end, trained)
        else:
            yield from _pieces(row, start, start + END, trained)
            yield Span(f"{end - start - 2 * END:,} tokens, --full shows them", note=True)
            yield from _pieces(row, end - END, end, trained)


def _messages(row: ShownRow) -> Iterator[tuple[bool, int, int]]:
    """(trained, start, end) of each stretch of tokens of one mask up to and with a special token."""
    start = 0
    for place, (trained, special) in enumerate(zip(row.mask_T, row.special_T, strict=True)):
        end = place + 1
        if special or end == len(row.mask_T) or row.mask_T[end] != trained:
            yield trained, start, end
            start = end


def _pieces(row: ShownRow, start: int, end: int, trained: bool) -> Iterator[Span]:
    for special, places in groupby(range(start, end), key=row.special_T.__getitem__):
        yield Span("".join(row.pieces_T[place] for place in places), trained, special)


def _painted(span: Span) -> str:
    """Each line in its own colour codes, so that none of them reaches into the next line."""
    if span.note:
        return paint(f" … {span.text} … ", "yellow", True)
    style = "green" if span.trained else "dim"
    lines = [paint(line, style, True) for line in harmless(span.text).split("\n")]
    if span.special:
        lines = [paint(line, "bold" if span.trained else "cyan", True) for line in lines]
    return "\n".join(lines)


def _marked(span: Span, marks: Marks) -> str:
    if span.note:
        return f"{marks.note_opening}{span.text}{marks.note_closing}"
    text = harmless(span.text)
    for mark in marks:
        text = text.replace(mark, "".join(f"\\u{ord(character):04x}" for character in mark))
    return text


def _marks(encoding: str | None) -> Marks:
    """RARE where the output can show them."""
    try:
        "".join(RARE).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return RARE


def _legend(shown: Shown, colour: bool, marks: Marks) -> str:
    """Which rows of which student, and what the marks mean."""
    trained, given = "trained", "read, not trained"
    if colour:
        key = f"{paint(trained, 'green', True)}  {paint(given, 'dim', True)}  {paint('special token', 'cyan', True)}"
    else:
        key = f"{marks.opening}{trained}{marks.closing} {given}"
    student = console.relative(shown.student)
    count = f"{len(shown.rows):,} of {shown.total:,} rows"
    return f"{key}\n{harmless(f'{count} as {student} reads them, trainer.train_on {shown.train_on}')}"


def _title(row: ShownRow) -> str:
    counts = {"tokens": len(row.ids_T), "trained": sum(row.mask_T), "turns": row.turns}
    told = figures({**counts, "tools": row.tools or "none"})
    return harmless(f"row {row.number} ({row.file}:{row.line})  {told}")

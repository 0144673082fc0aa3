"""A generation as people and programs follow it: one live line on a terminal, a line now and then, or NDJSON."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rnow.display import console
from rnow.display.lines import duration, figures, number
from rnow.display.run import raw_notice
from rnow_core.track.events import Event, to_ndjson

EVERY_S = 10.0
WIDE = 1000
"""Columns of a line that need not fit anything."""
SUMMARY_WIDTH = 100


def choose_progress(as_json: bool) -> GenerateDisplay:
    """NDJSON when asked for, a live line on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonGenerate()
    return LiveGenerate() if console.is_terminal(sys.stderr) else GenerateDisplay()


class GenerateDisplay:
    """A line on stderr every EVERY_S seconds."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def show(self, event: Event) -> None:
        """Show how far it is, or what else there is to say."""
        finished = event.fields.get("total") == event.fields.get("done", 0) + event.fields.get("rejected", 0)
        now = time.monotonic()
        if "total" not in event.fields or finished or now - self._told >= EVERY_S:
            self._told = now
            console.err(progress_line(event))

    def notice(self, text: str) -> None:
        """Say something from inside a signal handler."""
        raw_notice(text)

    def close(self) -> None:
        """Leave the terminal as it was."""


class JsonGenerate(GenerateDisplay):
    """Every event as a line of JSON on stdout."""

    def show(self, event: Event) -> None:
        """Print the event."""
        console.out(to_ndjson(event).rstrip("\n"))


class LiveGenerate(GenerateDisplay):
    """One line on stderr that is written over."""

    def __init__(self) -> None:
        super().__init__()
        self._open = False

    def show(self, event: Event) -> None:
        """Write the line anew; other news stay above it."""
        if "total" not in event.fields:
            erase = "\r\x1b[K" if self._open else ""
            self._open = False
            console.err(f"{erase}{progress_line(event)}")
            return
        sys.stderr.write(f"\r\x1b[K{progress_line(event, _columns() - 1)}")
        sys.stderr.flush()
        self._open = True

    def close(self) -> None:
        """End the line."""
        if self._open:
            self._open = False
            console.err()


def progress_line(event: Event, width: int = WIDE) -> str:
    """The event in words: how far it is, what runs, what it cost, how long the rest takes, what went wrong.

    In at most `width` characters: as many words as need be are shortened, the last ones first, and at the end cut.
    """
    if "total" not in event.fields:
        return str(event.fields["message"])
    parts = _parts(event.fields)
    for whole in range(len(parts), -1, -1):
        line = "  ".join([long for long, _ in parts[:whole]] + [short for _, short in parts[whole:] if short])
        if len(line) <= width:
            return line
    return line[:width]


def _parts(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The line's parts, each in words and in short."""
    done, total, rejected = fields["done"], fields["total"], fields["rejected"]
    flying, limit = fields["in_flight"], fields["limit"]
    tokens, cost = fields["tokens_in"] + fields["tokens_out"], fields["cost"]
    parts = [
        (f"done {done:,} of {total:,}", f"{done}/{total}"),
        (f"rejected {rejected:,}", f"rej {rejected}"),
        (f"in flight {flying} (limit {limit})", f"in flight {flying}/{limit}"),
        (f"tokens {tokens:,}", f"{_short(tokens)} tok"),
    ]
    if cost:
        parts.append((f"${cost:,.4f}", f"${cost:.2f}"))
    if fields["left_s"]:
        left = duration(fields["left_s"])
        parts.append((f"{left} left", left))
    if fields["throttled_s"]:
        parts.append((f"throttled {duration(fields['throttled_s'])}", f"wait {fields['throttled_s']:.0f}s"))
    if fields["retries"]:
        parts.append((f"retries {fields['retries']:,}", ""))
    return parts


def _short(count: int) -> str:
    """`950`, `12.3k`, `4.5M`."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def _columns() -> int:
    """Columns of the terminal behind stderr: stdout may go elsewhere."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def show_summary(summary: Mapping[str, Any], as_json: bool) -> None:
    """What came out, on stdout."""
    if as_json:
        console.out(to_ndjson(Event("run_finished", {"summary": dict(summary)})).rstrip("\n"))
        return
    width = max(map(len, summary))
    for key, value in summary.items():
        key, say = SECTIONS.get(key, (key, _listed))
        text = say(value)
        indent = " " * (width + 4)
        lines = textwrap.wrap(text, SUMMARY_WIDTH - len(indent), break_long_words=False) or [""]
        console.out(f"  {key.ljust(width)}  {f'{chr(10)}{indent}'.join(lines)}")


def _listed(value: Any) -> str:
    return figures(value) if isinstance(value, Mapping) else number(value)


def _rows(part: Mapping[str, Any]) -> str:
    """`97 rows in train.jsonl`; of rejected ones the reasons."""
    reasons = {key: count for key, count in part.items() if key not in ("file", "rows")}
    said = f"{part['rows']:,} rows in {console.relative(Path(part['file']))}"
    return f"{said}: {figures(reasons)}" if reasons else said


def _forecast(part: Mapping[str, Any]) -> str:
    """What the prompts that are left will take."""
    left = f"{part['prompts']:,} more prompts"
    if "seconds" not in part:
        return left
    tokens = f"{part['tokens_read']:,} tokens read, {part['tokens_written']:,} written"
    price = "price unknown (--price)" if part["dollars"] is None else f"${part['dollars']:,.4f}"
    return f"{left}: {tokens}, {price}, {duration(part['seconds'])}"


SECTIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "train": ("train", _rows),
    "rejected": ("rejected", _rows),
    "tokens": ("tokens", lambda part: f"{part['read']:,} read, {part['written']:,} written"),
    "cost": ("cost", lambda dollars: f"${dollars:,.4f}"),
    "seconds": ("time", duration),
    "forecast": ("forecast", _forecast),
}
"""Part of the summary -> what it is called and how it is said; the others are listed as they are."""

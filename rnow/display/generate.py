"""A generation as people and programs follow it: one live line on a terminal, a line now and then, or NDJSON."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from rnow.display import console
from rnow.display.lines import duration, table
from rnow.display.run import raw_notice
from rnow_core.track.events import Event, to_ndjson

EVERY_S = 10.0


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
            self.close()
            console.err(progress_line(event))
            return
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{progress_line(event)[:width]}")
        sys.stderr.flush()
        self._open = True

    def close(self) -> None:
        """End the line."""
        if self._open:
            self._open = False
            console.err()


def progress_line(event: Event) -> str:
    """The event in words, with the time that is left."""
    left = event.fields.get("left_s")
    return str(event.fields["message"]) + (f"  {duration(left)} left" if left else "")


def show_summary(summary: Mapping[str, Any], as_json: bool) -> None:
    """What came out, on stdout."""
    if as_json:
        console.out(to_ndjson(Event("run_finished", {"summary": dict(summary)})).rstrip("\n"))
        return
    for line in table(summary):
        console.out(line)

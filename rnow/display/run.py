"""A run as people and programs follow it: NDJSON, plain lines, or (in `live`) a table on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rnow.display import console
from rnow.display.lines import Pace, figures, number, step_row, table
from rnow_core.track.events import Event, to_ndjson


class RunDisplay(Protocol):
    """What `rnow run` needs of a display."""

    def show(self, event: Event) -> None:
        """Show one event of the run."""
        ...

    def notice(self, text: str) -> None:
        """Say something from inside a signal handler."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was. May be called more than once."""
        ...


def choose_display(as_json: bool) -> RunDisplay:
    """NDJSON when asked for, a live table on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonDisplay()
    if not console.is_terminal(sys.stdout):
        return PlainDisplay()
    from rnow.display.live import LiveDisplay

    return LiveDisplay()


def raw_notice(text: str) -> None:
    """Write to stderr past Python's buffers, which may be in use when a signal arrives."""
    os.write(2, f"\n{text}\n".encode())


class JsonDisplay:
    """One JSON object a line on stdout."""

    def show(self, event: Event) -> None:
        """Print the event."""
        console.out(to_ndjson(event).rstrip("\n"))

    def notice(self, text: str) -> None:
        """Say it on stderr."""
        raw_notice(text)

    def close(self) -> None:
        """Nothing is open."""


class PlainDisplay:
    """One line a step, and the results, on stdout; everything else on stderr."""

    def __init__(self) -> None:
        self._pace = Pace()

    def show(self, event: Event) -> None:
        """Print what the event says; events without a text of their own are silent."""
        if event.kind == "stage_started":
            self._pace = Pace()
        if event.kind == "step":
            console.out(self._step(event))
        elif event.kind in RESULTS:
            console.out(RESULTS[event.kind](event))
        elif event.kind in NOTES:
            console.err(NOTES[event.kind](event))

    def notice(self, text: str) -> None:
        """Say it on stderr."""
        raw_notice(text)

    def close(self) -> None:
        """Nothing is open."""

    def _step(self, event: Event) -> str:
        row, total = step_row(event), int(event.fields["total_steps"])
        self._pace.add(event.fields["metrics"])
        left = self._pace.left(total - row.step)
        parts = [f"step {row.step}/{total}", *(f"{head} {value}" for head, value in row.figures.items())]
        return "  ".join([*parts, f"left {left}"] if left else parts)


def describe_start(event: Event) -> str:
    """The run, where it is written, what was overridden."""
    fields = event.fields
    resumed = fields.get("resumed_from")
    lines = [
        f"run {fields['run']}: {number(fields['total_steps'])} steps, in {console.relative(fields['path'])}"
    ]
    if resumed is not None:
        lines.append(f"  resumed from step {number(resumed)}")
    if "stages" in fields:
        lines.append(f"  stages: {', '.join(fields['stages'])}")
    changes = fields.get("changes", ())
    lines += [f"  {change['path']}: {change['old']} -> {change['new']}" for change in changes]
    return "\n".join(lines)


def describe_stage_start(event: Event) -> str:
    """The stage, its steps, and where it goes on."""
    fields = event.fields
    resumed = fields.get("resumed_from")
    line = f"stage {fields['stage']}: {number(fields['total_steps'])} steps"
    return line if resumed is None else f"{line}, resumed from step {number(resumed)}"


def describe_stage_end(event: Event) -> str:
    """The stage is over; its figures come with those of the whole."""
    return f"stage {event.fields['stage']} finished"


def describe_check(event: Event) -> str:
    """One self-check and whether it passed."""
    rest = {key: value for key, value in event.fields.items() if key not in ("name", "passed")}
    state = "ok" if event.fields["passed"] else "FAILED"
    return f"check {event.fields['name']}: {state}  {figures(rest)}".rstrip()


def describe_warning(event: Event) -> str:
    """The warning and its fix."""
    hint = event.fields.get("hint")
    return f"warning: {event.fields['message']}" + (f"\n  hint: {hint}" if hint else "")


def describe_progress(event: Event) -> str:
    """What is being waited for."""
    return str(event.fields["message"])


def describe_checkpoint(event: Event) -> str:
    """Where the checkpoint is."""
    return f"checkpoint at step {event.fields['step']}: {console.relative(Path(event.fields['path']))}"


def describe_eval(event: Event) -> str:
    """The evaluation's figures on one line."""
    metrics = {name.removeprefix("eval/"): value for name, value in event.fields["metrics"].items()}
    return f"eval at step {event.fields['step']}  {figures(metrics)}"


def describe_summary(event: Event) -> str:
    """The run's figures, one a line."""
    return "\n".join(["finished", *table(event.fields["summary"])])


RESULTS: dict[str, Callable[[Event], str]] = {"eval": describe_eval, "run_finished": describe_summary}
NOTES: dict[str, Callable[[Event], str]] = {
    "run_started": describe_start,
    "stage_started": describe_stage_start,
    "stage_finished": describe_stage_end,
    "check": describe_check,
    "warning": describe_warning,
    "checkpoint": describe_checkpoint,
    "progress": describe_progress,
}

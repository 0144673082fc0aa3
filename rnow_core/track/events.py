"""What the engine tells whoever started it: it never prints, it emits events. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rnow_core.track.jsonable import dumps, jsonable

SCHEMA = 1
Kind = Literal[
    "run_started",
    "stage_started",
    "check",
    "eval",
    "step",
    "checkpoint",
    "warning",
    "progress",
    "stage_finished",
    "run_finished",
    "run_failed",
    "run_interrupted",
]
RESERVED = ("schema", "event", "time")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run. `time` is in seconds since 1970.

    run_started      run, path, total_steps, resumed_from, ...
    check            one self-check: name, passed, detail (figures and limits, in words)
    eval             step, metrics
    step             step, total_steps, metrics
    checkpoint       step, path
    warning          message, hint
    progress         seconds, message: something that takes long to start
    run_finished     step, summary; run_failed and run_interrupted: step, message, hint

    A run in stages emits `stage_started` and `stage_finished` with the fields of `run_started` and `run_finished` for
    each stage; `stage` names it in these and in everything between them. The whole begins with `run_started`, which
    has `stages`, and ends as any run does.
    """

    kind: Kind
    fields: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        taken = [name for name in RESERVED if name in self.fields]
        if taken:
            raise ValueError(f"event {self.kind}: the names {taken} are taken by the event itself")

    def as_dict(self) -> dict[str, Any]:
        """The event as flat JSON-ready data, with the version of this form."""
        data = jsonable(self.fields)
        return {"schema": SCHEMA, "event": self.kind, "time": round(self.time, 3), **data}


Emit = Callable[[Event], None]


def to_ndjson(event: Event) -> str:
    """The event as one line of JSON, newline included."""
    return dumps(event.as_dict()) + "\n"

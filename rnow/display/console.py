"""Lines and JSON on stdout and stderr. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, TextIO

from rnow_core.track.jsonable import dumps

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def prepare_streams() -> None:
    """Never fail on a character that the terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def out(text: str = "") -> None:
    """One line of data."""
    _write(sys.stdout, text)


def err(text: str = "") -> None:
    """One line about the work: progress, warnings, errors."""
    _write(sys.stderr, text)


def document(value: Any) -> None:
    """One JSON document on stdout, indented."""
    out(dumps(value, indent=2))


def json_line(value: Any) -> None:
    """One line of NDJSON on stdout."""
    out(dumps(value))


def coloured(stream: TextIO) -> bool:
    """Colour only on terminals, and never when NO_COLOR is set (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that understands escape codes."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def paint(text: str, style: str, on: bool) -> str:
    """`text` in one of STYLES, or as it is when `on` is False."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if on and text else text


def harmless(text: str) -> str:
    """Text that somebody else wrote, with its control characters spelled out: it cannot steer the terminal."""
    return _CONTROL.sub(lambda found: repr(found.group())[1:-1], text)


def flush() -> None:
    """Write out what is buffered, so that a closed pipe is met here and not at interpreter exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):
            _discard(stream)


def relative(path: str | Path) -> str:
    """A path relative to the working directory where it lies below it."""
    resolved = Path(path).absolute()
    here = Path.cwd()
    return str(resolved.relative_to(here)) if resolved.is_relative_to(here) else str(path)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text + "\n")
        stream.flush()
    except BrokenPipeError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """The reader has gone (`rnow ... | head`): the work goes on, its output is dropped."""
    with Path(os.devnull).open("w") as devnull:
        os.dup2(devnull.fileno(), stream.fileno())

"""Ctrl-C once: the run stops after its step. Twice: the process ends now."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rnow_core.errors import Interrupted
from rnow_core.stop import StopSignal

SAME_KEYPRESS = 0.2
"""Seconds. A wrapper such as `timeout` passes on a Ctrl-C that the terminal has already sent."""

SHOW_CURSOR = b"\x1b[?25h\n"
NOTICE = "Stopping after this step, with a checkpoint. Press Ctrl-C again to stop now."


@contextmanager
def stop_on_signals(stop: StopSignal, notice: Callable[[str], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM inside the block.

    The first one requests the stop and says so through `notice`. The next one ends the process with exit code
    130 at once, past every `finally`: checkpoints are complete or invisible, so none is left half written.
    """
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not stop.requested:
            first = time.monotonic()
            stop.request()
            notice(NOTICE)
        elif time.monotonic() - first > SAME_KEYPRESS:
            _end_now()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_now() -> None:
    """Leave without cleaning up. Raw writes: the code that was interrupted may hold a buffer's lock."""
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)
    os.write(2, b"Stopped.\n")
    os._exit(Interrupted.exit_code)

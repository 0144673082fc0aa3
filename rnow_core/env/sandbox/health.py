"""When a container is ready: its image's own HEALTHCHECK, run by us.

Engines run it only every so often (30 s, or never where podman has no systemd); asking ourselves finds out at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rnow_core.env.sandbox.engine import EngineFailed, Output

READY_SECONDS = 180.0
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A command that succeeds in a container that is ready; `seconds`: what one run of it may take."""

    command: tuple[str, ...]
    seconds: float

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> HealthCheck | None:
        """From an image's config (durations in nanoseconds); None when there is none or it was switched off."""
        form, *words = config.get("Test") or ["NONE"]
        if form == "NONE" or not words:
            return None
        command = ("/bin/sh", "-c", *words) if form == "CMD-SHELL" else tuple(words)
        return cls(command, (config.get("Timeout") or 30e9) / 1e9)


async def wait_ready(check: Callable[[], Awaitable[Output]], seconds: float) -> None:
    """Wait until `check` exits with 0. EngineFailed with what it said last when that takes longer than `seconds`."""
    deadline, pause, last = time.monotonic() + seconds, _FIRST_WAIT, "it never ended"
    while True:
        try:
            output = await check()
            if output.code == 0:
                return
            last = output.reason
        except EngineFailed as error:
            last = error.message
        if time.monotonic() + pause > deadline:
            raise EngineFailed(f"its HEALTHCHECK did not succeed within {seconds:g} s: {last}")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_WAIT)

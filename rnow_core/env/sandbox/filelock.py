"""A lock between processes of this machine, freed by the kernel however its holder ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_POLL_SECONDS = 0.1


@asynccontextmanager
async def file_lock(name: str) -> AsyncIterator[None]:
    """Hold the lock of this name (letters, digits, dashes); waits without blocking the event loop."""
    folder = Path(tempfile.gettempdir()) / f"rnow-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / f"{name}.lock").open("a") as file:
        while not _taken(file.fileno()):
            await asyncio.sleep(_POLL_SECONDS)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

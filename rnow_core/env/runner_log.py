"""The log of a process that runs user code: everything is read, only so much is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

MAX_LOG = 4 * 2**20
"""Bytes of one process that reach the log file."""

_TAIL = 8 * 2**10
_CHUNK = 64 * 2**10


class BoundedLog:
    """Appends what a process prints to `path` (None = nowhere), up to MAX_LOG bytes, without the values of
    `secrets`; `tail` is the last of it.
    """

    def __init__(self, path: Path | None, secrets: Iterable[str] = ()) -> None:
        self.tail = b""
        self._path = path
        self._left = MAX_LOG
        self._secrets = [secret.encode() for secret in secrets if len(secret) >= 4]
        self._held, self._hold = b"", max(map(len, self._secrets), default=1) - 1

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read until the stream ends, so that the process never waits for us."""
        try:
            while chunk := await stream.read(_CHUNK):
                self._write(self._without_secrets(chunk))
        finally:
            self._write(self._held)

    def _without_secrets(self, chunk: bytes) -> bytes:
        """What may be shown by now: the last bytes wait for the next chunk, as a secret may begin there."""
        text = self._held + chunk
        for secret in self._secrets:
            text = text.replace(secret, b"***")
        shown = len(text) - self._hold if self._hold else len(text)
        self._held = text[max(shown, 0) :]
        return text[: max(shown, 0)]

    def _write(self, chunk: bytes) -> None:
        self.tail = (self.tail + chunk[-_TAIL:])[-_TAIL:]
        if self._left <= 0:
            return
        kept = chunk[: self._left]
        self._left -= len(kept)
        if self._left <= 0:
            kept += b"\n[the rest of this process's output is dropped]\n"
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as log:
                log.write(kept)

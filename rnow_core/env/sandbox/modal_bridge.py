"""A program that runs a command in a Modal sandbox as if it were a local one: stdin, stdout, stderr, exit code.

`python -P -m rnow_core.env.sandbox.modal_bridge SANDBOX_ID MARK COMMAND...`; the command inside has MARK in the
environment variable by which runners are found.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from threading import Thread
from typing import Any

from rnow_core.env.sandbox.container import RUNNER_MARK
from rnow_core.env.sandbox.modal_sdk import load_sdk, modal_errors
from rnow_core.errors import RnowError

CANNOT_START = 125
_CHUNK = 1 << 20
_LAST_WORDS_SECONDS = 2.0


def main(sandbox_id: str, mark: str, *command: str) -> int:
    """Run it; its exit code, or CANNOT_START with the reason on stderr."""
    try:
        sdk = load_sdk()
        with modal_errors(sdk, f"running `{command[0]}` in the sandbox"):
            sandbox = sdk.Sandbox.from_id(sandbox_id)
            process = sandbox.exec(*command, env={RUNNER_MARK: mark}, text=False)
            return _connect(process)
    except RnowError as error:
        _write_all(2, f"{error.message}\n".encode())
        return CANNOT_START


def _connect(process: Any) -> int:
    """Pass everything on until the process ends. What it started may keep its pipes open, so those do not count."""
    Thread(target=_feed, args=(process.stdin,), daemon=True).start()
    readers = [
        Thread(target=_pour, args=(stream, number), daemon=True)
        for stream, number in ((process.stdout, 1), (process.stderr, 2))
    ]
    for reader in readers:
        reader.start()
    code = int(process.wait())
    for reader in readers:
        reader.join(_LAST_WORDS_SECONDS)
    return code


def _feed(stdin: Any) -> None:
    while chunk := os.read(0, _CHUNK):
        stdin.write(chunk)
        stdin.drain()
    stdin.write_eof()
    stdin.drain()


def _pour(stream: Iterable[bytes], number: int) -> None:
    for chunk in stream:
        _write_all(number, chunk)


def _write_all(number: int, data: bytes) -> None:
    while data:
        data = data[os.write(number, data) :]


if __name__ == "__main__":
    # The SDK's and our threads wait for bytes that never come: ending them politely would take for ever.
    os._exit(main(*sys.argv[1:]) & 0xFF)

"""A vLLM server for benchmarks, on a TCP port, since vLLM's own benchmark client knows no Unix sockets."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rnow_core.models.vllm_command import ServerSpec, server_command, server_environment


@contextmanager
def serving(spec: ServerSpec, folder: Path) -> Iterator[str]:
    """Start a server for `spec` and give its URL; ended with everything that it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = server_command(spec, folder / "unused.sock")
    at = command.index("--uds")
    command[at : at + 2] = ["--host", "127.0.0.1", "--port", str(port)]
    with spec.log_file.open("w") as log:
        process = subprocess.Popen(
            command,
            env=server_environment(spec, os.environ, folder),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(process, port, spec.log_file)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait(process: subprocess.Popen[bytes], port: int, log_file: Path) -> None:
    while not _healthy(port):
        if process.poll() is not None:
            raise SystemExit(f"the server ended while starting:\n{log_file.read_text()[-3000:]}")
        time.sleep(0.5)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()

"""A vLLM server that rnow starts, watches, restarts and ends.

It listens on a Unix socket in a folder that only this user can open: no port can be taken, and nobody else reaches
the routes that sleep, wake or reload.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import socket as sockets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rnow_core.errors import EnvironmentMissing, RunFailed
from rnow_core.models.guarded import GuardedProcess, private_folder
from rnow_core.models.vllm_command import ServerSpec, server_command, server_environment
from rnow_core.models.vllm_log import hint, last_lines, tail

START_SECONDS = 1800.0
MAX_RESTARTS = 3
# An engine that is busy with a large prefill answers late; one that is dead answers 503 or not at all.
ANSWER_SECONDS = 10.0
PATIENCE_SECONDS = 60.0

Progress = Callable[[float, str], None]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(socket: Path, route: str) -> tuple[int, bytes]:
    """Status and body of a GET on a Unix socket; status 0 when nothing answers."""
    connection = _UnixConnection(socket)
    try:
        connection.request("GET", route)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def wrong_model(listing: Mapping[str, Any], name: str, model: str) -> str | None:
    """What is wrong with the answer of `/v1/models` if base model `name` should be `model`, else None."""
    served = {str(entry.get("id")): entry for entry in listing.get("data", [])}
    if name not in served:
        return f"it serves {', '.join(sorted(served)) or 'nothing'}, expected {name} ({model})"
    root = served[name].get("root")
    return None if root in (None, model) else f"its {name} is {root}, expected {model}"


class ManagedServer:
    """One vLLM server for one role. `socket` is known before the start and stays the same over restarts."""

    def __init__(
        self, spec: ServerSpec, *, start_seconds: float = START_SECONDS, max_restarts: int = MAX_RESTARTS
    ) -> None:
        self.spec = spec
        self._folder = private_folder()
        self.socket = self._folder / "api.sock"
        self.starts = 0
        self._start_seconds, self._max_restarts = start_seconds, max_restarts
        self._process: GuardedProcess | None = None
        self._log_start = 0
        self._restarting = asyncio.Lock()
        self._progress: Progress = lambda elapsed, text: None

    @property
    def alive(self) -> bool:
        """Whether the server's process runs (it may still be loading)."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Process id of the server, which is also its process group."""
        return self._process.pid if self._process else None

    async def start(self, progress: Progress) -> None:
        """Start it and wait until it is ready; `progress(elapsed seconds, text)` is called every second.

        Raises RunFailed, with the log's last lines, when it ends, is not ready in time, or serves another model.
        """
        self._progress = progress
        if importlib.util.find_spec("vllm") is None:
            raise EnvironmentMissing(
                "vLLM is not installed in this Python environment",
                "pip install 'rnow-distill[vllm]', or set rollout.engine: hf",
            )
        self._launch()
        try:
            await self._until_ready()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the server and everything it started; does nothing when it was not started."""
        process, self._process = self._process, None
        if process is not None:
            await process.stop()

    async def ensure(self) -> bool:
        """Restart the server if it died; returns whether this call did (adapters are gone then).

        Callers that only see a later call's result compare `starts`, which counts every start. Raises RunFailed
        after `max_restarts` restarts.
        """
        async with self._restarting:
            if self._process is None:
                raise RunFailed(f"the {self.spec.role} server (vLLM with {self.spec.model}) is not running")
            if await self._answers():
                return False
            if self.starts > self._max_restarts:
                before = f", and was restarted {self.starts - 1} time(s) before" if self.starts > 1 else ""
                raise self._failure(self._end() + before)
            await self.stop()
            await self.start(self._progress)
            return True

    @contextmanager
    def without_restarts(self) -> Iterator[None]:
        """For the first requests: a server that dies of them would die again, and nothing is lost by stopping."""
        allowed, self._max_restarts = self._max_restarts, 0
        try:
            yield
        finally:
            self._max_restarts = allowed

    async def _answers(self) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.alive and time.monotonic() < deadline:
            status, _ = await asyncio.to_thread(get, self.socket, "/health")
            if status == 200:
                return True
            await asyncio.sleep(0.2)
        return False

    def _launch(self) -> None:
        spec = self.spec
        command = server_command(spec, self.socket)
        environment = server_environment(spec, os.environ, self._folder)
        spec.log_file.parent.mkdir(parents=True, exist_ok=True)
        with spec.log_file.open("a", encoding="utf-8") as log:
            log.write(f"--- start {self.starts + 1}: {' '.join(command)}\n")
            self._log_start = log.tell()
        self._process = GuardedProcess(
            command, environment=environment, log_file=spec.log_file, folder=self._folder
        )
        self.starts += 1

    async def _until_ready(self) -> None:
        started = time.monotonic()
        while (await asyncio.to_thread(get, self.socket, "/health"))[0] != 200:
            elapsed = time.monotonic() - started
            if not self.alive:
                raise self._failure(f"{self._end()} while starting, after {elapsed:.0f} s")
            if elapsed > self._start_seconds:
                raise self._failure(f"was not ready after {self._start_seconds:.0f} s")
            self._progress(
                elapsed,
                f"{self.spec.role} server loads {self.spec.model}: {elapsed:.0f} s of at most "
                f"{self._start_seconds:.0f} s",
            )
            await asyncio.sleep(1.0)
        await self.check_model()

    async def check_model(self) -> None:
        """Ask the server what it serves; raises RunFailed when it is not what the spec says."""
        status, body = await asyncio.to_thread(get, self.socket, "/v1/models")
        listing = json.loads(body) if status == 200 else {}
        if wrong := wrong_model(listing, self.spec.name, self.spec.model):
            raise self._failure(f"serves another model than configured: {wrong}")

    def _end(self) -> str:
        code = self._process.exit_code if self._process else 0
        if code is None:
            return f"did not answer for {PATIENCE_SECONDS:.0f} s"
        number = code - 128 if code > 128 else -code
        return f"was ended by signal {number}" if number > 0 else f"ended with exit code {code}"

    def _failure(self, what: str) -> RunFailed:
        text = tail(self.spec.log_file, self._log_start)
        lines = f"; the last lines of {self.spec.log_file}:\n{last_lines(text)}" if text else ""
        return RunFailed(
            f"the {self.spec.role} server (vLLM with {self.spec.model}) {what}{lines}", hint(text, self.spec)
        )

"""A Python process that runs a project's tools and rewards: started, asked, ended.

The same for a Python on this machine and for one inside a container (`podman exec -i ID python3 ...`): the
runner is sent over stdin. A call that takes too long, or that is cancelled, takes its process along.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnow_core.env.call import RewardFailure
from rnow_core.env.process import LOAD_SECONDS, tail
from rnow_core.env.runner.bundle import program
from rnow_core.env.runner_log import BoundedLog
from rnow_core.env.runner_reply import Loaded, encode, ending, read_loaded, read_result
from rnow_core.env.tool_types import ToolContext, ToolResult
from rnow_core.errors import RnowError
from rnow_core.types import Message

START_SECONDS = 60.0
MAX_REPLY = 64 * 2**20
"""Bytes of one reply; a process that says more at once is ended."""

RESULT_BYTES = 2**20
"""What a result may have by default; `rollout.max_tool_response` cuts in tokens after that."""

_END_SECONDS = 3.0
_BUSY_LOOP_GRACE = 0.2


class RunnerStartError(RnowError):
    """The Python of a runner did not start. `code` is its exit code (127: there is no such program), None = it
    was too slow.
    """

    def __init__(self, command: Sequence[str], code: int | None, log_tail: str) -> None:
        how = f"took longer than {START_SECONDS:g} s" if code is None else f"ended with {ending(code)}"
        program = next((word for word in reversed(command[:-3])), "python")
        super().__init__(f"starting `{program}` for the tools {how}", log_tail or "it printed nothing")
        self.code = code


class RunnerDied(RnowError):
    """The process ended before it answered. The message says how it ended."""


class RunnerProcess:
    """One Python process with a runner, for one request at a time; others wait in line.

    command: how to start it (runner.bundle.python_command makes its end). environment: all of its variables,
    None = this process's. kill: ends what `command` started somewhere else (in a container); without it the
    process is local: it ends with this one, nothing that it started survives it, and `memory` (bytes) bounds
    what it allocates. log: where the output of user code is appended. secrets: values kept out of that.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        kill: Callable[[], Awaitable[None]] | None = None,
        memory: int | None = None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.python = ""
        self._command = list(command)
        self._environment = environment
        self._cwd = cwd
        self._hook = kill
        self._memory = memory
        self._log = BoundedLog(log, secrets)
        self._process: Process | None = None
        self._following: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._line = asyncio.Lock()
        self._ids = itertools.count(1)
        self._loaded: dict[str, Loaded] = {}

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None and self._ending is None

    async def start(self) -> None:
        """Start the process and send it the runner; `python` is its version then.

        Raises RunnerStartError when no Python answers.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                cwd=self._cwd,
                env=None if self._environment is None else dict(self._environment),
                start_new_session=True,
                limit=MAX_REPLY,
            )
        except OSError as error:
            raise RunnerStartError(self._command, 127, str(error)) from error
        assert self._process.stderr is not None
        if self._ending is not None:
            await _stop(self._process)
            raise RunnerDied("could not run: its process was closed while it started")
        self._following = asyncio.create_task(self._log.follow(self._process.stderr))
        try:
            first = program(local=self._hook is None, memory=self._memory)
            reply = await self._ask({"op": "ping"}, START_SECONDS, first)
        except (RunnerDied, TimeoutError) as error:
            code = None if isinstance(error, TimeoutError) else self._process.returncode
            raise RunnerStartError(self._command, code, self.log_tail()) from None
        self.python = str(reply.get("python"))

    async def load(
        self, files: Mapping[str, str], main: str = "tools.py", timeout: float = LOAD_SECONDS
    ) -> Loaded:
        """Import one of the project's files; everything that is defined by then. A second time: what was found.

        files: name -> source. Raises FindingsError (RN234, RN235; for rewards.py RN232).
        """
        if main not in self._loaded:
            request = {"op": "load", "files": dict(files), "main": main}
            reply: Mapping[str, Any] | str
            try:
                reply = await self._ask(request, timeout)
            except TimeoutError:
                reply = f"importing it took longer than {timeout:g} s"
            except RunnerDied as error:
                reply = f"importing it {error.message}"
            self._loaded[main] = read_loaded(reply, main, self.log_tail(), local=self._hook is None)
        return self._loaded[main]

    async def call(
        self,
        tool: str,
        arguments: Mapping[str, Any],
        context: ToolContext,
        *,
        timeout: float,
        limit: int = RESULT_BYTES,
    ) -> ToolResult:
        """Call a tool; whatever happens is a result. timeout: seconds; limit: bytes of text."""
        request = {
            "op": "call",
            "tool": tool,
            "arguments": dict(arguments),
            "context": context.as_dict(),
            "limit": limit,
        }
        begun = time.monotonic()
        try:
            reply = await self._ask(request, timeout)
        except TimeoutError:
            text = f"`{tool}` took longer than {timeout:g} s and was stopped"
            return ToolResult(text, False, "timeout", time.monotonic() - begun)
        except RunnerDied as error:
            return ToolResult(f"`{tool}` {error.message}", False, "died", time.monotonic() - begun)
        return read_result(reply, time.monotonic() - begun)

    async def reward(
        self, name: str, messages: Sequence[Message], context: ToolContext, *, timeout: float
    ) -> float:
        """The number that a reward gives; RewardFailure where it gives none."""
        request = {
            "op": "reward",
            "reward": name,
            "messages": list(messages),
            "context": context.as_dict(),
        }
        try:
            reply = await self._ask(request, timeout)
        except TimeoutError:
            raise RewardFailure(name, f"took longer than {timeout:g} s") from None
        except RunnerDied as error:
            raise RewardFailure(name, error.message) from None
        score = reply.get("score")
        if not isinstance(score, float):
            raise RewardFailure(name, str(reply.get("text")))
        return score

    async def kill(self) -> None:
        """End the process and everything it started; returns when it is gone."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    close = kill

    def log_tail(self) -> str:
        """The last lines that user code printed."""
        return tail(self._log.tail)

    async def _ask(
        self, request: Mapping[str, Any], timeout: float, before: bytes = b""
    ) -> Mapping[str, Any]:
        """The reply to one request. TimeoutError and RunnerDied: the process is gone."""
        async with self._line:
            number = next(self._ids)
            line = encode({"id": number, **request})
            if not self.alive:
                await self.kill()
                raise RunnerDied("could not run: its process has ended")
            exchange = asyncio.create_task(self._exchange(before + line))
            try:
                await _finished(exchange, timeout)
                reply = exchange.result()
            except BaseException:  # late or cancelled: what comes next would be the answer to this
                exchange.cancel()
                await self.kill()
                raise
            return await self._check(reply, number)

    async def _exchange(self, sent: bytes) -> bytes:
        """Send, and read one line; less than a line when the process has ended or says too much."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):  # the reading says how it ended
            process.stdin.write(sent)
            await process.stdin.drain()
        try:
            return await process.stdout.readline()
        except ValueError:
            return b"\n"  # too much for one reply: not one

    async def _check(self, line: bytes, number: int) -> Mapping[str, Any]:
        """Parse a reply; one that no runner of ours would send ends the process."""
        try:
            reply = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            reply = None
        if isinstance(reply, dict) and reply.get("id") == number:
            return reply
        assert self._process is not None
        if not line.endswith(b"\n"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _END_SECONDS)
        code = self._process.returncode
        await self.kill()
        raise RunnerDied(
            "wrote into the pipe of its process" if code is None else f"ended its process ({ending(code)})"
        )

    async def _end(self) -> None:
        if self._hook is not None:
            with contextlib.suppress(RnowError, OSError):
                await self._hook()
        process = self._process
        if process is not None and process.returncode is None:
            await _stop(process)
        if self._following is not None:
            # A process that escaped may hold the pipe open.
            await asyncio.wait([self._following], timeout=0.2)
            self._following.cancel()
        if process is not None and process.stdin is not None:
            process.stdin.close()


async def _finished(exchange: asyncio.Task[bytes], timeout: float) -> None:
    """Wait for it; TimeoutError. Our own loop may have been blocked: what came meanwhile is read before that."""
    for seconds in (timeout, _BUSY_LOOP_GRACE):
        done, _ = await asyncio.wait([exchange], timeout=seconds)
        if done:
            return
    raise TimeoutError


async def _stop(process: Process) -> None:
    """Let the guard clean up, and end the group if it does not."""
    for stop in (process.terminate, lambda: os.killpg(process.pid, signal.SIGKILL)):
        with contextlib.suppress(ProcessLookupError):
            stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _END_SECONDS)
            return

"""The main process's side of the reward worker: many calls in flight, deadlines, restarts.

A reward that hangs or dies takes its process along, never the run: the call that was at work fails,
everything else that was in flight is sent again to a fresh process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnow_core.env.call import Call, RewardFailure
from rnow_core.env.define import RewardInfo
from rnow_core.env.process import (
    LOAD_SECONDS,
    read_first_line,
    require_rewards_file,
    tail,
    too_slow,
    worker_command,
    worker_environment,
)
from rnow_core.errors import RnowError, RunFailed
from rnow_core.types import Message

MAX_DEATHS = 5
"""So many processes may die one after the other without a single answer in between."""

_CLOSE_SECONDS = 2.0
_ASYNC_GRACE = 5.0
_BUSY_LOOP_GRACE = 0.2


class RewardWorker:
    """Runs a project's rewards in one process of its own, started with the first call.

    timeout: seconds for one call of a reward that sets none itself. secrets: name -> value, passed on to the
    process; of the other environment variables only those that programs need. What the rewards print is
    appended to `log`.
    """

    def __init__(
        self, project: Path, log: Path, *, timeout: float = 60.0, secrets: Mapping[str, str] | None = None
    ) -> None:
        self.rewards: Mapping[str, RewardInfo] = {}
        self._project = project.resolve()
        self._log = log
        self._timeout = timeout
        self._secrets = dict(secrets or {})
        self._ids = itertools.count()
        self._calls: dict[int, Call] = {}
        self._process: Process | None = None
        self._requests: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._deaths = 0
        self._heard = 0.0
        self._killed = False
        self._over: RnowError | None = None

    async def start(self) -> None:
        """Start the process and learn its rewards; FindingsError when rewards.py cannot be loaded."""
        async with self._starting:
            if self._supervisor is None:
                await self._spawn()
                self._supervisor = asyncio.create_task(self._supervise())

    async def score(
        self,
        names: Sequence[str],
        messages: Sequence[Message],
        metadata: Mapping[str, Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """One finite number for each of the named rewards.

        Raises RewardFailure when one of them raises, returns no finite number, takes too long or kills the
        process; RnowError for an unknown name; RunFailed when the process cannot be kept alive.
        """
        await self.start()
        for name in names:
            self._require(name)
        given = {
            "messages": list(messages),
            "metadata": dict(metadata or {}),
            "variables": dict(variables or {}),
        }
        outcomes = await asyncio.gather(*(self._call(name, given) for name in names), return_exceptions=True)
        scores: dict[str, float] = {}
        for name, outcome in zip(names, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            scores[name] = outcome
        return scores

    async def close(self) -> None:
        """End the process; calls in flight fail."""
        self._give_up(self._over or RunFailed("the reward worker is closed"))
        if self._supervisor is None:
            return
        if self._requests is not None:
            self._requests.close()
        _, late = await asyncio.wait([self._supervisor], timeout=_CLOSE_SECONDS)
        if late:
            self._kill()
        await self._supervisor

    async def __aenter__(self) -> RewardWorker:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _require(self, name: str) -> None:
        if name not in self.rewards:
            listed = ", ".join(sorted(self.rewards)) or "none"
            raise RnowError(f"rewards.py has no reward `{name}`", f"rewards.py has: {listed}")

    async def _call(self, name: str, given: Mapping[str, Any]) -> float:
        if self._over is not None:
            raise self._over
        info = self.rewards[name]
        number, limit = next(self._ids), info.timeout or self._timeout
        request = {"id": number, "reward": name, "timeout": limit, **given}
        line = json.dumps(request).encode() + b"\n"
        call = Call(number, info, limit, line, asyncio.get_running_loop().create_future())
        self._calls[number] = call
        self._send(line)
        return await call.score

    def _send(self, line: bytes) -> None:
        """Send a request if a process is there to take it: a new one gets all that are unanswered."""
        if self._requests is not None and not self._requests.is_closing():
            self._requests.write(line)

    def _handle(self, reply: Mapping[str, Any]) -> None:
        """Take one line of the worker. A call that failed meanwhile is no longer known."""
        self._heard = asyncio.get_running_loop().time()
        call = self._calls.get(reply["id"])
        if call is None:
            return
        if "started" in reply:
            # An async reward is stopped by the worker itself, unless it blocks the loop that would do that.
            call.started = True
            call.wait(call.limit + (_ASYNC_GRACE if call.info.is_async else 0.0), self._late)
            return
        del self._calls[call.number]
        self._deaths = 0
        if "problem" in reply:
            call.fail(RewardFailure(call.info.name, reply["problem"]))
        else:
            call.succeed(reply["score"])

    def _late(self, call: Call) -> None:
        """Our own loop may have been blocked: read what the worker said meanwhile before the verdict."""
        call.wait(_BUSY_LOOP_GRACE, self._overdue)

    def _overdue(self, call: Call) -> None:
        if call.info.is_async and self._loop_turns():
            call.wait(_ASYNC_GRACE, self._late)
            return
        del self._calls[call.number]
        call.fail(RewardFailure(call.info.name, f"took longer than {call.limit:g} s"))
        self._kill()

    def _loop_turns(self) -> bool:
        """Whether the worker can still stop an async reward itself, now or after the sync one that is at work."""
        heard = asyncio.get_running_loop().time() - self._heard < _ASYNC_GRACE
        return heard or any(call.blocks for call in self._calls.values())

    def _kill(self) -> None:
        """End the process and what it started; the supervisor brings the next one."""
        self._killed = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _supervise(self) -> None:
        """Read replies; when the process ends, settle what it was at and start the next."""
        while True:
            try:
                code = await self._listen()
                if self._over is not None:
                    return
                self._settle(code)
                if self._deaths > MAX_DEATHS:
                    raise self._hopeless(code)
                await self._spawn()
            except Exception as error:  # whatever it is, no call may wait for ever
                self._give_up(
                    error if isinstance(error, RnowError) else RunFailed(f"reward worker: {error!r}")
                )
                return
            self._send_again()

    async def _listen(self) -> int:
        """Handle replies until the process has ended; its exit code."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        while (line := await process.stdout.readline()).endswith(b"\n"):
            self._handle(json.loads(line))
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        return await process.wait()

    def _settle(self, code: int) -> None:
        """Blame the sync reward that was at work for a process that ended by itself."""
        if not self._killed:
            self._deaths += 1
            for call in [call for call in self._calls.values() if call.blocks]:
                del self._calls[call.number]
                call.fail(RewardFailure(call.info.name, f"ended its process ({_ending(code)})"))
        for call in self._calls.values():
            call.rest()

    def _hopeless(self, code: int) -> RunFailed:
        message = f"the reward worker ended {self._deaths} times without an answer, last with {_ending(code)}"
        return RunFailed(message, f"end of {self._log}:\n{self._log_tail()}")

    def _give_up(self, error: RnowError) -> None:
        self._over = error
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.fail(error)

    def _send_again(self) -> None:
        for call in self._calls.values():
            self._send(call.line)

    async def _spawn(self) -> None:
        """Start a process and read its first line."""
        require_rewards_file(self._project)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *worker_command(self._project, self._secrets),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                cwd=self._project,
                env=worker_environment(self._secrets),
                start_new_session=True,
            )
        self._process, self._killed = process, False
        self.rewards = await self._first_line(process)
        self._requests = process.stdin

    async def _first_line(self, process: Process) -> Mapping[str, RewardInfo]:
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), LOAD_SECONDS)
            return read_first_line(line, self._log_tail())
        except BaseException as error:
            self._kill()
            await process.wait()
            raise too_slow() if isinstance(error, TimeoutError) else error from None

    def _log_tail(self) -> str:
        return tail(self._log.read_bytes())


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

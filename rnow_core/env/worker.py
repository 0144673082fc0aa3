"""The main process's side of the reward worker: many calls in flight, deadlines, restarts.

A reward that hangs or dies takes its process along, never the run: the call that was at work fails, everything else
that was in flight is sent again to a fresh process.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from rnow_core.errors import RnowError, RolloutFailed, RunFailed
from rnow_core.types import Message

MAX_DEATHS = 5
"""So many processes may die one after the other without a single answer in between."""

_CLOSE_SECONDS = 2.0
_ASYNC_GRACE = 5.0
_BUSY_LOOP_GRACE = 0.2


class RewardFailure(RolloutFailed):
    """A reward gave no number for a rollout. `reward` is its name, `problem` what happened."""

    def __init__(self, reward: str, problem: str) -> None:
        super().__init__(f"reward `{reward}` {problem}", "the log of the reward worker has the traceback")
        self.reward = reward
        self.problem = problem


@dataclass(slots=True)
class _Call:
    info: RewardInfo
    line: bytes
    score: asyncio.Future[float]
    started: bool = False
    timer: asyncio.TimerHandle | None = None

    def rest(self) -> None:
        """Not at work (any more)."""
        self.started = False
        if self.timer is not None:
            self.timer.cancel()

    def fail(self, error: RnowError) -> None:
        self.rest()
        if not self.score.done():
            self.score.set_exception(error)


class RewardWorker:
    """Runs a project's rewards in one process of its own, started with the first call.

    timeout: seconds for one call of a reward that sets none itself. secrets: name -> value, passed on to the process;
    of the other environment variables only those that programs need. What the rewards print is appended to `log`.
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
        self._calls: dict[int, _Call] = {}
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._deaths = 0
        self._over: RnowError | None = None

    async def start(self) -> None:
        """Start the process and learn its rewards; FindingsError when rewards.py cannot be loaded."""
        async with self._starting:
            if self._supervisor is None:
                self._process = await self._spawn()
                self._supervisor = asyncio.create_task(self._supervise())

    async def score(
        self,
        names: Sequence[str],
        messages: Sequence[Message],
        metadata: Mapping[str, Any] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> dict[str, float]:
        """One finite number for each of the named rewards.

        Raises RewardFailure when one of them raises, returns no finite number, takes too long or kills the process;
        RnowError for an unknown name; RunFailed when the process cannot be kept alive.
        """
        await self.start()
        for name in names:
            self._require(name)
        given = {"messages": list(messages), "metadata": dict(metadata or {}), "variables": dict(variables or {})}
        scores = await asyncio.gather(*(self._call(name, given) for name in names), return_exceptions=True)
        for score in scores:
            if isinstance(score, BaseException):
                raise score
        return {name: score for name, score in zip(names, scores, strict=True) if not isinstance(score, BaseException)}

    async def close(self) -> None:
        """End the process. Calls in flight are cancelled."""
        self._over = self._over or RunFailed("the reward worker is closed")
        for call in self._calls.values():
            call.rest()
            call.score.cancel()
        self._calls.clear()
        if self._supervisor is None or self._process is None:
            return
        self._stdin().close()
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
        number = next(self._ids)
        line = json.dumps({"id": number, "reward": name, **given}).encode() + b"\n"
        call = _Call(self.rewards[name], line, asyncio.get_running_loop().create_future())
        self._calls[number] = call
        self._stdin().write(line)
        return await call.score

    def _handle(self, reply: Mapping[str, Any]) -> None:
        """One line of the worker. A call that failed meanwhile is no longer known."""
        number = reply["id"]
        call = self._calls.get(number)
        if call is None:
            return
        if "started" in reply:
            self._begin(number, call)
            return
        del self._calls[number]
        self._deaths = 0
        if "problem" in reply:
            call.fail(RewardFailure(call.info.name, reply["problem"]))
            return
        call.rest()
        if not call.score.done():
            call.score.set_result(reply["score"])

    def _begin(self, number: int, call: _Call) -> None:
        limit = call.info.timeout or self._timeout
        # An async reward shares its thread: it may wait for a sync one that is within its own limit.
        grace = _ASYNC_GRACE if call.info.is_async else 0.0
        call.started = True
        loop = asyncio.get_running_loop()
        # Our own loop may have been blocked: what the worker said meanwhile is read before the verdict.
        verdict = (_BUSY_LOOP_GRACE, self._overdue, number, limit)
        call.timer = loop.call_later(limit + grace, lambda: loop.call_later(*verdict))

    def _overdue(self, number: int, limit: float) -> None:
        call = self._calls.pop(number, None)
        if call is not None and call.started:
            call.fail(RewardFailure(call.info.name, f"took longer than {limit:g} s"))
            self._deaths -= 1
            self._kill()

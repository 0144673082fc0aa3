"""The worker process: loads a project's rewards.py and answers requests, one JSON line each.

    python -m rnow_core.env.worker_main PROJECT [SECRET_NAME ...]

    first line     -> {"rewards": [...]}  or  {"findings": [...]}, and the process ends
    request        <- {"id", "reward", "timeout", "messages", "metadata", "variables"}
    begun          -> {"id", "started": true}
    answered       -> {"id", "score": 0.5}  or  {"id", "problem": "raised ValueError: ..."}

Rewards run in the main thread, because libraries that guard themselves with signal.alarm work only there:
sync ones one after the other in the order of the requests, async ones beside each other. The process ends
with its stdin.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import json
import math
import numbers
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from rnow_core.env.define import RewardArgs, RewardInfo
from rnow_core.env.load import load_rewards, place_in_project
from rnow_core.errors import FindingsError

MAX_LINE = 2**30
MAX_PROBLEM = 1000
_PR_SET_PDEATHSIG = 1

Send = Callable[[Mapping[str, Any]], None]


def main() -> None:
    """Run the worker until its stdin ends."""
    project, secret_names = Path(sys.argv[1]), sys.argv[2:]
    requests, send = _take_pipes()
    _die_with_parent()
    try:
        rewards = load_rewards(project)
    except FindingsError as error:
        send({"findings": [finding.as_dict() for finding in error.findings]})
        return
    send({"rewards": [asdict(info) for info, _ in rewards.values()]})
    secrets = {name: os.environ[name] for name in secret_names}
    asyncio.run(_Server(project, rewards, secrets, send).serve(requests))
    # Threads that a reward left behind must not keep the process alive.
    sys.stdout.flush()
    os._exit(0)


def _take_pipes() -> tuple[BinaryIO, Send]:
    """Keep stdin and stdout for the protocol; user code reads nothing and prints to stderr."""
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    replies = os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    def send(message: Mapping[str, Any]) -> None:
        replies.write(json.dumps(message).encode() + b"\n")
        replies.flush()

    return requests, send


def _die_with_parent() -> None:
    """Even when busy, on Linux; elsewhere the worker ends with its stdin."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Server:
    def __init__(
        self,
        project: Path,
        rewards: Mapping[str, tuple[RewardInfo, Callable[..., Any]]],
        secrets: Mapping[str, str],
        send: Send,
    ) -> None:
        self._project = project
        self._rewards = rewards
        self._secrets = secrets
        self._send = send
        self._limits: set[asyncio.Timeout] = set()

    async def serve(self, requests: BinaryIO) -> None:
        """Answer requests until there are no more."""
        reader = asyncio.StreamReader(limit=MAX_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, requests)
        running: set[asyncio.Task[None]] = set()
        while line := await reader.readline():
            request = json.loads(line)
            info, function = self._rewards[request["reward"]]
            if info.is_async:
                task = asyncio.create_task(self._answer_async(request, function))
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                self._answer(request, function)
            await asyncio.sleep(0)  # a backlog of sync rewards must not starve the async ones

    def _answer(self, request: Mapping[str, Any], function: Callable[..., Any]) -> None:
        self._send({"id": request["id"], "started": True})
        begun = time.monotonic()
        try:
            outcome = _score(function(self._args(request), request["messages"]))
        except BaseException as error:  # a reward that calls sys.exit() is a failed reward
            outcome = self._problem(error)
        self._send({"id": request["id"], **outcome})
        self._extend(time.monotonic() - begun)

    def _extend(self, seconds: float) -> None:
        """Give the time that a sync reward held the loop back to the async ones that had to wait."""
        if seconds < 0.01:
            return
        for limit in self._limits:
            limit.reschedule((limit.when() or 0.0) + seconds)

    async def _answer_async(self, request: Mapping[str, Any], function: Callable[..., Any]) -> None:
        self._send({"id": request["id"], "started": True})
        limit = asyncio.timeout(request["timeout"])
        try:
            async with limit:
                self._limits.add(limit)
                outcome = _score(await function(self._args(request), request["messages"]))
        except BaseException as error:  # as above
            late = {"problem": f"took longer than {request['timeout']:g} s"}
            outcome = late if limit.expired() else self._problem(error)
        finally:
            self._limits.discard(limit)
        self._send({"id": request["id"], **outcome})

    def _args(self, request: Mapping[str, Any]) -> RewardArgs:
        return RewardArgs(request["metadata"], request["variables"], self._secrets)

    def _problem(self, error: BaseException) -> dict[str, Any]:
        traceback.print_exception(error)
        place = place_in_project(error, self._project)
        where = f" ({place[0]}:{place[1]})" if place else ""
        return {"problem": f"raised {type(error).__name__}: {str(error)[:MAX_PROBLEM]}{where}"}


def _score(value: Any) -> dict[str, Any]:
    """The reply to a reward that returned: its score, or what is wrong with it."""
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return {"score": float(value)}
    if inspect.iscoroutine(value):
        value.close()
        return {"problem": "returned a coroutine: declare it `async def` and await what it calls"}
    missing = " (is a `return` missing?)" if value is None else ""
    return {"problem": f"returned {repr(value)[:MAX_PROBLEM]}, expected a finite number{missing}"}


if __name__ == "__main__":
    main()

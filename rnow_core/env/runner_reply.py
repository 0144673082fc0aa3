"""What is said to a runner, and what it says, read with care: user code shares its process."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from rnow_core.env.load import BROKEN, REWARDS_FILE
from rnow_core.env.tool_types import ResultKind, ToolInfo, ToolResult
from rnow_core.errors import Finding, FindingsError, RolloutFailed

TOOLS_FILE = "tools.py"
CANNOT_LOAD = "RN234"
BAD_DEFINITION = "RN235"

_TOOL_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "description": str,
    "parameters": dict,
    "sandbox": bool,
    "timeout": (int, float, type(None)),
    "network": bool,
    "is_async": bool,
    "file": str,
    "line": int,
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a runner has: its tools, and the names of its rewards."""

    tools: tuple[ToolInfo, ...]
    rewards: tuple[str, ...]


def encode(request: Mapping[str, Any]) -> bytes:
    """A request as one line; RolloutFailed where something in it is not JSON."""
    try:
        return json.dumps(request).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise RolloutFailed(f"a request to the tool process is not JSON: {error}") from error


def ending(code: int) -> str:
    """How a process ended, by its exit code (128 + n, or -n: signal n)."""
    number = -code if code < 0 else code - 128
    with contextlib.suppress(ValueError):
        if number > 0:
            return f"signal {signal.Signals(number).name}"
    return f"exit code {code}"


def read_loaded(reply: Mapping[str, Any] | str, main: str, log_tail: str, *, local: bool) -> Loaded:
    """The reply to `load`, or what went wrong instead. FindingsError for anything but success."""
    broken = BROKEN if main == REWARDS_FILE else CANNOT_LOAD
    if isinstance(reply, str):
        raise FindingsError([Finding(broken, "error", reply, log_tail, main)])
    try:
        if reply.get("ok") is not True:
            raise FindingsError([_finding(error, broken, local) for error in reply["errors"]])
        tools = tuple(_tool(told) for told in reply["tools"])
        return Loaded(tools, tuple(str(told["name"]) for told in reply["rewards"]))
    except (KeyError, TypeError, AttributeError) as error:
        message = f"its process answered something else than tools: {error!r}"
        raise FindingsError([Finding(broken, "error", message, log_tail, main)]) from error


def read_result(reply: Mapping[str, Any], seconds: float) -> ToolResult:
    """The reply to `call`."""
    ok = reply.get("ok") is True
    kind = "ok" if ok else reply.get("kind")
    if kind not in get_args(ResultKind):
        kind = "raised"
    return ToolResult(str(reply.get("text", "")), ok, cast(ResultKind, kind), seconds, bool(reply.get("cut")))


def _tool(told: Mapping[str, Any]) -> ToolInfo:
    for name, kind in _TOOL_FIELDS.items():
        if not isinstance(told[name], kind):
            raise TypeError(f"`{name}` is a {type(told[name]).__name__}")
    return ToolInfo(**{name: told[name] for name in _TOOL_FIELDS})


def _finding(error: Mapping[str, Any], broken: str, local: bool) -> Finding:
    hint = str(error.get("hint") or "")
    if missing := error.get("missing"):
        place = "where rnow is installed" if local else "in the sandbox's image"
        hint = f"install `{missing}` {place}"
    message = str(error["message"])
    code = BAD_DEFINITION if message.startswith("@tool") else broken
    return Finding(code, "error", message, hint, error.get("file"), error.get("line"))

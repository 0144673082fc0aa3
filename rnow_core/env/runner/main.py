"""The runner: loads a project's Python files and runs their tools and rewards, one request at a time.

JSON lines. Requests come on stdin, replies go to a private copy of stdout; what user code prints goes to stderr.

    {"id": 1, "op": "load", "files": {"tools.py": "..."}, "main": "tools.py"}
        -> {"id": 1, "ok": true, "tools": [...], "rewards": [...]}   everything that is defined by now
        -> {"id": 1, "ok": false, "errors": [{"message", "hint", "file", "line"}]}
    {"id": 2, "op": "call", "tool": "browse", "arguments": {}, "context": {}, "limit": 65536}
        -> {"id": 2, "ok": true, "text": "...", "cut": false}
        -> {"id": 2, "ok": false, "kind": "arguments" | "raised" | "result" | "unknown", "text": "..."}
    {"id": 3, "op": "reward", "reward": "accuracy", "messages": [], "context": {}}
        -> {"id": 3, "ok": true, "score": 0.5}  or  {"id": 3, "ok": false, "text": "raised ..."}
    {"id": 4, "op": "ping"}
        -> {"id": 4, "ok": true, "python": "3.12.1"}

Python 3.8, standard library only: this file runs inside sandboxes.
"""

# Without pathlib: importing it takes as long as the rest of the runner.
# ruff: noqa: PTH109, PTH122
from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
import traceback
import types
from typing import TYPE_CHECKING, Any, BinaryIO

from .guard import guard
from .reward import REWARDS, RewardArgs, RewardDefinitionError, get_response, read_score, reward
from .toolkit import TOOLS, ToolArgs, ToolDefinitionError, describe_tools, old_python_fix, tool
from .values import Mismatch, json_default

if TYPE_CHECKING:
    from .importer import MemoryImporter

MAX_MESSAGE = 2000
"""Characters of an exception's message that are passed on."""

_NAMES = (tool, ToolArgs, reward, RewardArgs, get_response)


def main(importer: MemoryImporter, options: dict[str, Any]) -> None:
    """Serve requests until there are no more. options: `local`, a process on the host's own machine (guarded,
    in the project's folder), and `memory`, its limit in bytes.
    """
    if options.get("local"):
        guard(options.get("memory"))
    requests, replies = _take_pipes()
    _provide_rnow()
    _Server(importer, requests, replies, bool(options.get("local"))).serve()
    # Threads that a tool left behind must not keep the process alive.
    os._exit(0)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return requests, replies


def _provide_rnow() -> None:
    """The modules `rnow` and `rnow.core` that user code imports."""
    names = {getattr(value, "__name__", ""): value for value in _NAMES}

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"rnow.{name} is not available where tools run; there are: {', '.join(names)}")

    for module in (types.ModuleType("rnow"), types.ModuleType("rnow.core")):
        vars(module).update(names, __getattr__=missing, __all__=list(names))
        sys.modules[module.__name__] = module
    rnow: Any = sys.modules["rnow"]
    rnow.__path__ = []
    rnow.core = sys.modules["rnow.core"]


class _Server:
    def __init__(
        self, importer: MemoryImporter, requests: BinaryIO, replies: BinaryIO, keep_folder: bool
    ) -> None:
        self._importer = importer
        self._requests = requests
        self._replies = replies
        self._keep_folder = keep_folder
        self._root = os.getcwd()

    def serve(self) -> None:
        operations = {"load": self._load, "call": self._call, "reward": self._reward, "ping": self._ping}
        me = os.getpid()
        for line in iter(self._requests.readline, b""):
            request = json.loads(line)
            reply = operations[request["op"]](request)
            if os.getpid() != me:  # a fork that a tool left in the middle of its code
                os._exit(0)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            if self._keep_folder:
                with contextlib.suppress(OSError):
                    os.chdir(self._root)
            self._replies.write(json.dumps({"id": request["id"], **reply}).encode() + b"\n")
            self._replies.flush()

    def _ping(self, _: Any) -> dict[str, Any]:
        return {"ok": True, "python": ".".join(map(str, sys.version_info[:3]))}

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._importer.add_project(request["files"], self._root)
        if self._root not in sys.path:
            sys.path.insert(0, self._root)
        try:
            importlib.import_module(os.path.splitext(request["main"])[0])
            tools, problems = describe_tools()
        except BaseException as error:  # sys.exit() at the top of a file would end the runner without a word
            traceback.print_exc()
            return {"ok": False, "errors": [self._load_error(error, request["main"])]}
        if problems:
            return {"ok": False, "errors": [self._definition_error(problem) for problem in problems]}
        rewards = [known.describe() for known in REWARDS.values()]
        for info in [*tools, *rewards]:
            info["file"] = self._short(info["file"])
        return {"ok": True, "tools": tools, "rewards": rewards}

    def _call(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["tool"]
        known = next((known for known in TOOLS if known.name == name), None)
        if known is None:
            return {"ok": False, "kind": "unknown", "text": f"there is no tool `{name}`"}
        try:
            arguments = known.bind(request["arguments"], ToolArgs(**request["context"]))
            value = _finish(known.function(**arguments))
        except Mismatch as error:
            return {"ok": False, "kind": "arguments", "text": f"`{name}` was not called: {error}"}
        except BaseException as error:  # a tool that calls sys.exit() is a failed call
            return {"ok": False, "kind": "raised", "text": f"`{name}` {self._raised(error)}"}
        try:
            return {"ok": True, **_cut(_text(value), request["limit"])}
        except BaseException as error:
            said = f"`{name}` returned a {type(value).__name__} that is not JSON: {_message(error)}"
            return {"ok": False, "kind": "result", "text": said}

    def _reward(self, request: dict[str, Any]) -> dict[str, Any]:
        known = REWARDS.get(request["reward"])
        if known is None:
            return {"ok": False, "text": f"is not defined; there are: {', '.join(REWARDS) or 'none'}"}
        try:
            value = _finish(known.function(RewardArgs(**request["context"]), request["messages"]))
        except BaseException as error:
            return {"ok": False, "text": self._raised(error)}
        try:
            return {"ok": True, "score": read_score(value)}
        except ValueError as error:
            return {"ok": False, "text": str(error)}

    def _raised(self, error: BaseException) -> str:
        """What was raised and where in the project, for the model; the whole traceback goes to the log."""
        with contextlib.suppress(Exception):
            traceback.print_exception(type(error), error, error.__traceback__)
        place = self._place(error)
        where = f" ({place[0]}:{place[1]})" if place else ""
        message = _message(error)
        return f"raised {type(error).__name__}{': ' if message else ''}{message}{where}"

    def _load_error(self, error: BaseException, file: str) -> dict[str, Any]:
        if isinstance(error, (ToolDefinitionError, RewardDefinitionError)):
            return self._definition_error(error)
        text = f"importing it raised {type(error).__name__}: {_message(error)}"
        if isinstance(error, SyntaxError):
            found = {"file": self._short(error.filename or file), "line": error.lineno}
            return {"message": f"{type(error).__name__}: {error.msg}", "hint": "", **found}
        place = self._place(error) or (file, None)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        hint = old_python_fix(error)
        return {"message": text, "hint": hint, "file": place[0], "line": place[1], "missing": missing}

    def _definition_error(self, error: Any) -> dict[str, Any]:
        shorter = error.problem.replace(self._root + os.sep, "")
        return {
            "message": shorter,
            "hint": error.hint,
            "file": self._short(error.file),
            "line": error.line,
        }

    def _place(self, error: BaseException) -> tuple[str, int] | None:
        """File and line of the innermost frame of the project's own code."""
        own = set(self._importer.project.values())
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            below = self._keep_folder and frame.filename.startswith(self._root + os.sep)
            if frame.filename in own or (below and "site-packages" not in frame.filename):
                return self._short(frame.filename), frame.lineno or 0
        return None

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self._root) if path.startswith(self._root) else path


def _finish(value: Any) -> Any:
    """The value of a call, awaited where the tool is async."""
    if not inspect.isawaitable(value):
        return value
    import asyncio

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, default=json_default, ensure_ascii=False)


def _cut(text: str, limit: int) -> dict[str, Any]:
    """The text in at most `limit` bytes of UTF-8, with a mark where it was longer."""
    whole = text[: limit + 1].encode("utf-8", "replace")
    if len(whole) <= limit:
        return {"text": whole.decode(), "cut": False}
    shown = whole[:limit].decode("utf-8", "ignore")
    mark = f"\n[output cut: the first {len(shown)} of {len(text)} characters]"
    return {"text": shown + mark, "cut": True}


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        return ""
    return text[:MAX_MESSAGE].encode("utf-8", "replace").decode()

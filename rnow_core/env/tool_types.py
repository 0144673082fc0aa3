"""The records of tools, and the seam to where sandboxed ones run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rnow_core.types import Prompt

if TYPE_CHECKING:
    from rnow_core.env.runner_process import RunnerProcess

ResultKind = Literal["ok", "arguments", "raised", "timeout", "died", "unknown", "result"]
"""`ok`: a value came back. `unknown`: no such tool. `arguments`: they do not fit its parameters. `raised`: an
exception. `result`: the value is not JSON. `timeout`: stopped. `died`: its process ended."""


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool as a project defines it. `parameters` is a JSON schema of an object; `timeout` in seconds, None =
    `rollout.tool_timeout`; `file` is relative to the project. `server` is the URL of the MCP server that has the
    tool, "" for the project's own; it may hold a key.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    sandbox: bool = False
    timeout: float | None = None
    network: bool = True
    is_async: bool = False
    file: str = ""
    line: int = 0
    server: str = field(default="", repr=False)

    def schema(self) -> dict[str, Any]:
        """The form that chat templates and OpenAI-compatible servers take."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def tools_of(prompt: Prompt, infos: Iterable[ToolInfo]) -> list[ToolInfo]:
    """The tools of a row: those that it names, in its order, or all. A name without a tool is left out."""
    by_name = {info.name: info for info in infos}
    names = by_name if prompt.tools is None else prompt.tools
    return [by_name[name] for name in names if name in by_name]


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool or reward may know besides its arguments (`ToolArgs`, `RewardArgs`)."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As the runner takes it."""
        return {
            "metadata": dict(self.metadata),
            "variables": dict(self.variables),
            "secrets": dict(self.secrets),
        }


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model is told after a call. `cut`: the text was longer. `seconds` the call took."""

    text: str
    ok: bool
    kind: ResultKind
    seconds: float = 0.0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox is made of. `image` as in the row (`local/NAME` or a registry's), None = none named;
    `files` are the project's Python files (name -> source).
    """

    image: str | None
    env: Mapping[str, str]
    secrets: Mapping[str, str]
    network: bool
    files: Mapping[str, str]


class Sandbox(Protocol):
    """One isolated place that keeps its state from call to call."""

    async def runner(self) -> RunnerProcess:
        """The runner inside with tools.py loaded: started on first use, and again after it was killed."""

    async def close(self) -> None:
        """End it and everything inside."""


class Sandboxes(Protocol):
    """Where sandboxes come from."""

    async def open(self, spec: SandboxSpec) -> Sandbox:
        """A fresh one."""

    async def prepare(self, spec: SandboxSpec, count: int) -> None:
        """Start `count` ahead, in the background, where that saves time."""

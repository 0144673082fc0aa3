"""The tools of a run: what the model is shown of them, and where its calls go.

    async with toolbox.session(prompt, key) as session:
        result = await session.call("browse", {"url": "https://example.org"})

Plain tools run in worker processes, sandboxed ones in the sandbox of the session, those of MCP servers there. A call
always gives a ToolResult, whatever the model or the tool does.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rnow_core.env.load import REWARDS_FILE
from rnow_core.env.mcp_session import shown
from rnow_core.env.mcp_tools import McpServers
from rnow_core.env.runner_process import RESULT_BYTES, RunnerProcess
from rnow_core.env.runner_reply import TOOLS_FILE
from rnow_core.env.tool_arguments import ArgumentCheck
from rnow_core.env.tool_pool import ToolPool
from rnow_core.env.tool_types import Sandbox, Sandboxes, SandboxSpec, ToolContext, ToolInfo, ToolResult
from rnow_core.errors import EnvironmentMissing, RnowError
from rnow_core.types import Message, Prompt


class ToolBox:
    """The tools of a project, as `inspect_tools` found them, and those of its MCP servers. RnowError where two
    have one name.

    timeout: seconds for a call of a tool that sets none itself. limit: bytes of a result. sandboxes: where
    sandboxed tools run; without, they are an error of the environment. sandbox_secrets: the secrets that enter
    a sandbox; `secrets` are for plain tools. network: False closes the network of every sandbox.
    mcp: where the tools with a `server` are called.
    """

    def __init__(
        self,
        project: Path,
        tools: Sequence[ToolInfo],
        *,
        timeout: float = 60.0,
        limit: int = RESULT_BYTES,
        secrets: Mapping[str, str] | None = None,
        sandbox_secrets: Mapping[str, str] | None = None,
        sandboxes: Sandboxes | None = None,
        network: bool = True,
        pool: ToolPool | None = None,
        mcp: McpServers | None = None,
        log: Path | None = None,
    ) -> None:
        self.timeout = timeout
        self.limit = limit
        require_unique(tools)
        self.tools = {info.name: info for info in tools}
        self.checks = {info.name: ArgumentCheck(info.name, info.parameters) for info in tools}
        self.secrets = dict(secrets or {})
        self.sandbox_secrets = dict(sandbox_secrets or {})
        self.sandboxes = sandboxes
        self.network = network
        self.pool = pool or ToolPool(project, secrets=secrets, log=log)
        self.mcp = mcp or McpServers(())
        self.files = self.pool.files

    def of(self, prompt: Prompt) -> dict[str, ToolInfo]:
        """The tools of a row by name: those that it names, or all. RnowError for one that does not exist."""
        if prompt.tools is None:
            return self.tools
        for name in prompt.tools:
            if name not in self.tools:
                place = f"{prompt.file}:{prompt.line}"
                hint = f"the tools are: {', '.join(self.tools) or 'none'}"
                raise RnowError(f"{place}: there is no tool `{name}`", hint)
        return {name: self.tools[name] for name in prompt.tools}

    def schemas(self, prompt: Prompt) -> list[dict[str, Any]]:
        """What chat templates and servers are given of the row's tools."""
        return [info.schema() for info in self.of(prompt).values()]

    def agentic(self, prompt: Prompt) -> bool:
        """Whether the row has tools at all."""
        return bool(self.of(prompt))

    def session(self, prompt: Prompt, key: str) -> ToolSession:
        """The calls of one rollout; `key` names it. Use with `async with`."""
        return ToolSession(self, prompt, key)

    def spec(self, prompt: Prompt) -> SandboxSpec:
        """The sandbox of a row. Its network is open when the row has an image and no tool of it closes the network."""
        network = all(info.network for info in self.of(prompt).values() if info.sandbox)
        return SandboxSpec(
            prompt.docker,
            prompt.docker_env,
            self.sandbox_secrets,
            prompt.docker is not None and self.network and network,
            self.files,
        )

    async def prepare(self, prompts: Sequence[Prompt], rollouts: int) -> None:
        """Start the sandboxes ahead that so many rollouts of each row will need, in the background."""
        if self.sandboxes is None:
            return
        rows = [prompt for prompt in prompts if any(info.sandbox for info in self.of(prompt).values())]
        for image, count in Counter(prompt.docker for prompt in rows).items():
            first = next(prompt for prompt in rows if prompt.docker == image)
            await self.sandboxes.prepare(self.spec(first), count * rollouts)

    async def close(self) -> None:
        """End the worker processes."""
        await self.pool.close()


def require_unique(tools: Sequence[ToolInfo]) -> None:
    """RnowError that names both places of a name that two tools have."""
    places: dict[str, str] = {}
    for info in tools:
        place = f"the MCP server {shown(info.server)}" if info.server else TOOLS_FILE
        if info.name in places:
            hint = "rename the one in tools.py, or leave a server out of rollout.mcp_url"
            both = f"one of {places[info.name]}, one of {place}"
            raise RnowError(f"two tools are named `{info.name}`: {both}", hint)
        places[info.name] = place


class ToolSession:
    """The calls of one rollout. Its sandbox is opened by the first call that needs it, and lives until the end
    of the session: state that one call leaves there is there for the next, and for sandboxed rewards.
    """

    def __init__(self, box: ToolBox, prompt: Prompt, key: str) -> None:
        self.key = key
        self.prompt = prompt
        self._box = box
        self._tools = box.of(prompt)
        self._sandbox: Sandbox | None = None
        self._mcp = box.mcp.calls()
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> ToolSession:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the sandbox and the MCP sessions, if there are any."""
        async with self._opening:
            sandbox, self._sandbox = self._sandbox, None
        try:
            await self._mcp.close()
        finally:
            if sandbox is not None:
                await sandbox.close()

    async def call(self, name: str, arguments: Any) -> ToolResult:
        """Check the arguments and call a tool of the row. Calls may run beside each other.

        Raises RnowError only when the sandbox itself cannot be had.
        """
        begun = time.monotonic()
        info = self._tools.get(name)
        if info is None:
            return ToolResult(self._no_such_tool(name), False, "unknown")
        if problem := self._box.checks[name].problem(arguments):
            return ToolResult(problem, False, "arguments")
        result = await self._call(info, arguments)
        return replace(result, seconds=time.monotonic() - begun)

    async def reward(self, name: str, messages: Sequence[Message], timeout: float) -> float:
        """Score the conversation with a sandboxed reward, in the sandbox that the tools left.

        RewardFailure where it gives no number.
        """
        runner = await self._runner()
        await runner.load(self._box.files, REWARDS_FILE)
        return await runner.reward(name, messages, self._context(sandboxed=True), timeout=timeout)

    async def _call(self, info: ToolInfo, arguments: Mapping[str, Any]) -> ToolResult:
        timeout, limit = info.timeout or self._box.timeout, self._box.limit
        if info.server:
            return await self._mcp.call(info, arguments, timeout=timeout, limit=limit)
        runner: RunnerProcess | ToolPool = await self._runner() if info.sandbox else self._box.pool
        context = self._context(info.sandbox)
        return await runner.call(info.name, arguments, context, timeout=timeout, limit=limit)

    def _no_such_tool(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._tools, 1)
        meant = f"; did you mean `{close[0]}`?" if close else ""
        listed = ", ".join(f"`{known}`" for known in self._tools) or "none"
        return f"there is no tool `{name[:100]}`{meant} (tools: {listed})"

    def _context(self, sandboxed: bool) -> ToolContext:
        secrets = self._box.sandbox_secrets if sandboxed else self._box.secrets
        return ToolContext(self.prompt.metadata, self.prompt.variables, secrets)

    async def _runner(self) -> RunnerProcess:
        async with self._opening:
            if self._sandbox is None:
                self._sandbox = await self._open()
            return await self._sandbox.runner()

    async def _open(self) -> Sandbox:
        if self._box.sandboxes is None:
            message = f"{TOOLS_FILE} has sandboxed tools, and this run has no place for sandboxes"
            raise EnvironmentMissing(message, "install docker or podman; `rnow doctor` says what is missing")
        return await self._box.sandboxes.open(self._box.spec(self.prompt))

"""Config -> the tools of a run, and where the sandboxed ones run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import Format, detect_format, named_format
from rnow_core.env.mcp_session import KEY_VARIABLE
from rnow_core.env.mcp_tools import McpServers
from rnow_core.env.sandbox.dispatch import RowSandboxes
from rnow_core.env.tool_pool import ToolPool
from rnow_core.env.tool_types import ToolInfo
from rnow_core.env.toolbox import ToolBox
from rnow_core.rollout.agent import Agent
from rnow_core.types import Prompt


def secrets_of(config: Config) -> dict[str, str]:
    """The values of the secrets that the config names, from the environment."""
    return {name: os.environ[name] for name in config.sandbox.secrets if name in os.environ}


def mcp_servers(config: Config) -> McpServers:
    """The MCP servers of the config, with the key from the environment; nothing is asked of them yet."""
    return McpServers(config.rollout.mcp_url or (), os.environ.get(KEY_VARIABLE) or None)


def call_format(config: Config, renderer: Renderer) -> Format:
    """How the student writes tool calls. FormatError when that is not known."""
    name = config.rollout.tool_call_format
    return named_format(name, renderer) if name else detect_format(renderer)


@dataclass(frozen=True)
class RunTools:
    """The tools of a run: None where rows need none."""

    toolbox: ToolBox | None
    agent: Agent | None
    sandboxes: RowSandboxes

    async def start(self, prompts: Sequence[Prompt]) -> None:
        """Have the images of the rows ready. RnowError for one that cannot be had."""
        if self.toolbox is None:
            return
        box = self.toolbox
        inside = (prompt for prompt in prompts if any(info.sandbox for info in box.of(prompt).values()))
        await self.sandboxes.build(dict.fromkeys(prompt.docker for prompt in inside if prompt.docker))

    async def close(self) -> None:
        """End worker processes and containers."""
        try:
            if self.toolbox is not None:
                await self.toolbox.close()
        finally:
            await self.sandboxes.close()


def make_tools(
    config: Config,
    tools: Sequence[ToolInfo],
    renderer: Renderer,
    *,
    sandboxed_rewards: bool,
    project: Path,
    run_dir: Path,
) -> RunTools:
    """The tools of a run; nothing is started before the first call."""
    log = run_dir / "logs" / "tools.log"
    settings = config.sandbox
    sandboxes = RowSandboxes(
        settings, project, run=run_dir.name, log=log, block_private=settings.network != "open"
    )
    if settings.engine == "none":
        tools = [replace(info, sandbox=False) for info in tools]
    if not tools and not sandboxed_rewards:
        return RunTools(None, None, sandboxes)
    secrets = secrets_of(config)
    toolbox = ToolBox(
        project,
        tools,
        timeout=config.rollout.tool_timeout,
        secrets=secrets,
        sandbox_secrets=secrets,
        sandboxes=sandboxes,
        network=config.sandbox.network != "none",
        pool=ToolPool(project, secrets=secrets, log=log),
        mcp=mcp_servers(config),
    )
    turns = config.rollout.turns(tools=bool(tools))
    if turns == 1 or not tools:
        return RunTools(toolbox, None, sandboxes)
    agent = Agent(
        tools=toolbox,
        format=call_format(config, renderer),
        max_turns=turns,
        until_max_turns=config.rollout.termination_policy == "max_turns",
        max_tool_response=config.rollout.max_tool_response,
        max_malformed=config.rollout.max_malformed_calls,
    )
    return RunTools(toolbox, agent, sandboxes)

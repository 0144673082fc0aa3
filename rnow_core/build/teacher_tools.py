"""A tools.py -> the tools that a teacher of off-policy data calls: the same runtime and sandboxes as in a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rnow_core.build.tools import mcp_servers, secrets_of
from rnow_core.config.load import load_config
from rnow_core.config.rollouts import RolloutConfig, SandboxConfig
from rnow_core.env.mcp_tools import McpServers
from rnow_core.env.runner_reply import TOOLS_FILE
from rnow_core.env.sandbox.dispatch import RowSandboxes
from rnow_core.env.tool_pool import ToolPool, load_tools
from rnow_core.env.toolbox import ToolBox
from rnow_core.errors import RnowError, UsageError

CONFIG_FILE = "config.yml"


@dataclass(frozen=True)
class TeacherTools:
    """The tools, and where sandboxed ones run. Close it behind the last call."""

    toolbox: ToolBox
    sandboxes: RowSandboxes

    async def close(self) -> None:
        """End worker processes and containers."""
        try:
            await self.toolbox.close()
        finally:
            await self.sandboxes.close()


async def make_teacher_tools(file: Path, run: str, log: Path) -> TeacherTools:
    """The tools of a file, with the settings of the config.yml beside it, if there is one. Starts nothing yet.

    run: names the sandboxes. log: what tools print. Raises UsageError when the file is no tools.py or has no tools,
    FindingsError when it or config.yml cannot be loaded.
    """
    if file.name != TOOLS_FILE or not file.is_file():
        what = "does not exist" if file.name == TOOLS_FILE else f"is not named {TOOLS_FILE}"
        raise UsageError(
            f"--tools {file}: {what}",
            f"name a {TOOLS_FILE} (its folder's other .py files may be imported), or --tools none",
        )
    project = file.parent.resolve()
    config = load_config(project / CONFIG_FILE).config if (project / CONFIG_FILE).is_file() else None
    rollout = config.rollout if config else RolloutConfig()
    settings = config.sandbox if config else SandboxConfig()
    secrets = secrets_of(config) if config else {}
    servers = mcp_servers(config) if config else McpServers(())
    infos = list(await load_tools(project, secrets))
    if servers.urls:
        served, problems = await servers.tools()
        if problems:
            raise problems[0]
        infos += served
    if not infos:
        raise RnowError(f"{file} defines no tools", "mark a function with @tool, or give --tools none")
    if settings.engine == "none":
        infos = [replace(info, sandbox=False) for info in infos]
    sandboxes = RowSandboxes(settings, project, run=run, log=log, block_private=settings.network != "open")
    toolbox = ToolBox(
        project,
        infos,
        timeout=rollout.tool_timeout,
        secrets=secrets,
        sandbox_secrets=secrets,
        sandboxes=sandboxes,
        network=settings.network != "none",
        pool=ToolPool(project, secrets=secrets, log=log),
        mcp=servers,
    )
    return TeacherTools(toolbox, sandboxes)

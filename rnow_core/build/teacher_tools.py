"""A file of tools -> the tools that a teacher of off-policy data calls: the same runtime and sandboxes as in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rnow_core.build.tools import mcp_servers, secrets_of
from rnow_core.config.load import LoadedConfig, load_config
from rnow_core.config.rollouts import RolloutConfig, SandboxConfig
from rnow_core.env.mcp_tools import McpServers
from rnow_core.env.runner_reply import TOOLS_FILE
from rnow_core.env.sandbox.dispatch import RowSandboxes
from rnow_core.env.tool_pool import ToolPool, load_tools, project_files
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


def project_folder(tools: Path | None) -> Path:
    """Where a generation's config.yml and rewards.py lie: beside the tools, or here."""
    return (tools.parent if tools else Path()).resolve()


def project_config(folder: Path) -> LoadedConfig | None:
    """The config.yml here or else in a folder. FindingsError when there is one with errors."""
    files = [place / CONFIG_FILE for place in (Path().resolve(), folder)]
    found = next((file for file in files if file.is_file()), None)
    return load_config(found) if found else None


async def make_teacher_tools(file: Path, run: str, log: Path) -> TeacherTools:
    """The tools of a file, with the settings of the config.yml beside it, if there is one. Starts nothing yet.

    run: names the sandboxes. log: what tools print. Raises UsageError when the file is not there or cannot be a module,
    RnowError when it has no tools, FindingsError when it or config.yml cannot be loaded.
    """
    project = project_folder(file)
    files = tool_files(file)
    config = load_config(project / CONFIG_FILE).config if (project / CONFIG_FILE).is_file() else None
    rollout = config.rollout if config else RolloutConfig()
    settings = config.sandbox if config else SandboxConfig()
    secrets = secrets_of(config) if config else {}
    servers = mcp_servers(config) if config else McpServers(())
    infos = list(await load_tools(project, secrets, files=files))
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
        pool=ToolPool(project, secrets=secrets, log=log, files=files),
        mcp=servers,
    )
    return TeacherTools(toolbox, sandboxes)


def tool_files(file: Path) -> Mapping[str, str]:
    """The Python files beside a file of tools, name -> source; its own tools are what tools.py defines.

    Processes and sandboxes load tools.py: for a file of another name, that is one that imports it.
    """
    hint = f"name a file of tools such as {TOOLS_FILE} (its folder's other .py files may be imported), or --tools none"
    if not file.is_file():
        raise UsageError(f"--tools {file}: does not exist", hint)
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UsageError(
            f"--tools {file}: cannot be imported, a Python file of letters, digits and _ can", hint
        )
    files = project_files(file.parent)
    return files if file.name == TOOLS_FILE else {**files, TOOLS_FILE: f"import {file.stem}\n"}

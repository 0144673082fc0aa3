"""The tools of the project's tools.py: as the user's Python finds them, or, where it cannot, as an image's does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rnow_core.config.schema import Config
from rnow_core.env.runner_reply import CANNOT_LOAD, TOOLS_FILE
from rnow_core.env.sandbox.dispatch import RowSandboxes
from rnow_core.env.tool_pool import inspect_tools, project_files
from rnow_core.env.tool_types import SandboxSpec, ToolInfo
from rnow_core.errors import Finding, FindingsError, RnowError
from rnow_core.preflight.report import Findings
from rnow_core.types import Prompt


def own_tools(
    project_dir: Path, config: Config, prompts: Sequence[Prompt], found: Findings
) -> tuple[ToolInfo, ...]:
    """The tools in order of definition; empty without tools.py, or when it cannot be loaded (RN234, RN235).

    A package that only the image has need not be installed here: tools.py is then loaded in a container of the
    first row with `docker` (RN243), and all of its tools must be sandboxed.
    """
    try:
        return inspect_tools(project_dir)
    except FindingsError as error:
        row = next((prompt for prompt in prompts if prompt.docker), None)
        missing = [problem for problem in error.findings if "ModuleNotFoundError" in problem.message]
        if row is None or not missing or config.sandbox.engine == "none":
            found.extend(error.findings)
            return ()
        found.add(_read_elsewhere(missing[0], row.docker))
        return _from_container(project_dir, config, row, missing[0], found)


def _from_container(
    project_dir: Path, config: Config, row: Prompt, missing: Finding, found: Findings
) -> tuple[ToolInfo, ...]:
    try:
        tools = asyncio.run(_load(project_dir, config, row))
    except FindingsError as error:
        found.extend(error.findings)
        return ()
    except RnowError as error:
        found.add(Finding("RN402", "error", error.message, error.hint, path="sandbox"))
        return ()
    plain = [info for info in tools if not info.sandbox]
    if plain:
        message = f"{missing.message}; `{plain[0].name}` is not sandboxed and would run here"
        hint = "install the package here, or mark the tool: @tool(sandbox=True)"
        found.add(Finding(CANNOT_LOAD, "error", message, hint, TOOLS_FILE, plain[0].line))
        return ()
    return tools


async def _load(project_dir: Path, config: Config, row: Prompt) -> tuple[ToolInfo, ...]:
    files = project_files(project_dir)
    spec = SandboxSpec(row.docker, row.docker_env, {}, False, files)
    async with RowSandboxes(config.sandbox, project_dir, run="validate") as sandboxes:
        sandbox = await sandboxes.open(spec)
        try:
            return (await (await sandbox.runner()).load(files, TOOLS_FILE)).tools
        finally:
            await sandbox.close()


def _read_elsewhere(problem: Finding, image: str | None) -> Finding:
    message = (
        f"tools.py cannot be loaded here ({problem.message}): its tools are read in a container of {image}"
    )
    return Finding("RN243", "info", message, "", TOOLS_FILE, problem.line)

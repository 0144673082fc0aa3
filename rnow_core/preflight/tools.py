"""Do the tools fit the run: tools.py loads, MCP servers answer, rows name what exists, the student can call it,
sandboxes are there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rnow_core.build.tools import call_format, mcp_servers
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer
from rnow_core.env.sandbox.bubblewrap import require_bubblewrap
from rnow_core.env.sandbox.dispatch import require_containers
from rnow_core.env.tool_types import ToolInfo, tools_of
from rnow_core.env.toolbox import require_unique
from rnow_core.errors import Finding, RnowError
from rnow_core.preflight.own_tools import own_tools
from rnow_core.preflight.report import Findings
from rnow_core.types import Prompt

TOOLS_FILE = "tools.py"


def check_tools(
    project_dir: Path, config: Config, prompts: Sequence[Prompt], found: Findings
) -> tuple[ToolInfo, ...]:
    """The tools of the project and of its MCP servers; empty where there are none, or no row can use them.

    Findings: those of `own_tools`, RN236 a row names a tool that does not exist, RN237 (info) tools without turns,
    RN238 (info) which rows are agentic, RN239 (info) tools outside of a sandbox, RN240 (warning) a container that
    nothing uses, RN241 two tools of one name, RN242 (warning) sandboxes switched off, RN244 (warning) a tool that
    closes the network of another, RN402 no place for sandboxed tools, RN403 a secret that is not set, RN404 an MCP
    server without an answer.
    """
    infos = known_tools(project_dir, config, prompts, found)
    if not infos:
        return ()
    turns = config.rollout.turns(tools=True)
    if turns == 1:
        message = "rollout.max_turns is 1, so replies are single turns and no tool is offered"
        hint = "raise rollout.max_turns to use them"
        found.add(Finding("RN237", "info", message, hint, path="rollout.max_turns"))
        return ()
    if config.sandbox.engine == "none":
        inside = [info.name for info in infos if info.sandbox]
        message = f"sandbox.engine is none: {', '.join(inside)} would be sandboxed, and run with your rights"
        found.extend([Finding("RN242", "warning", message, path="sandbox.engine")] if inside else [])
        infos = tuple(replace(info, sandbox=False) for info in infos)
    agentic = [prompt for prompt in prompts if tools_of(prompt, infos)]
    message = f"{len(agentic)} of {len(prompts)} rows have tools: their episodes have up to {turns} turns"
    found.add(Finding("RN238", "info", message, "the rule: tools resolve for the row, and max_turns > 1"))
    _check_places(config, agentic, infos, found)
    found.extend(_secrets(config))
    return infos


def known_tools(
    project_dir: Path, config: Config, prompts: Sequence[Prompt], found: Findings
) -> tuple[ToolInfo, ...]:
    """The tools of the project and of its MCP servers, whether or not a run calls them.

    Findings: those of `own_tools`, RN236, RN241 and RN404 of `check_tools`.
    """
    own = own_tools(project_dir, config, prompts, found)
    served = _served(config, found)
    infos = (*own, *(served or ()))
    if served is not None:
        found.extend(_unknown(prompts, infos))
    _require(found, "RN241", "rollout.mcp_url", lambda: require_unique(infos))
    return infos


def check_format(config: Config, renderer: Renderer, found: Findings) -> None:
    """RN317 when the student's tool calls cannot be read."""
    try:
        call_format(config, renderer)
    except RnowError as error:
        found.add(Finding("RN317", "error", error.message, error.hint, path="model.path"))


def _served(config: Config, found: Findings) -> list[ToolInfo] | None:
    """The tools of the MCP servers; None when they are not all known."""
    servers = mcp_servers(config)
    if not servers.urls:
        return []
    try:
        tools, problems = asyncio.run(servers.tools())
    except RnowError as error:
        tools, problems = [], [error]
    found.extend(
        Finding("RN404", "error", problem.message, problem.hint, path="rollout.mcp_url")
        for problem in problems
    )
    return None if problems else tools


def _unknown(prompts: Sequence[Prompt], infos: Sequence[ToolInfo]) -> list[Finding]:
    known = {info.name for info in infos}
    none = "the project has no tools.py with @tool, and no rollout.mcp_url"
    listed = f"the tools are: {', '.join(sorted(known))}" if known else none
    return [
        Finding("RN236", "error", f"unknown tool '{name}'", listed, prompt.file, prompt.line, path="tools")
        for prompt in prompts
        for name in prompt.tools or ()
        if name not in known
    ]


def _check_places(
    config: Config, agentic: Sequence[Prompt], infos: Sequence[ToolInfo], found: Findings
) -> None:
    """Where tools run, and whether that place exists."""
    plain = [info.name for info in infos if not info.sandbox and not info.server]
    if plain:
        message = f"not sandboxed: {', '.join(plain)}; they run with your rights, network and files"
        found.add(
            Finding("RN239", "info", message, "@tool(sandbox=True) puts a tool into a sandbox", TOOLS_FILE)
        )
    sandboxed = [prompt for prompt in agentic if any(info.sandbox for info in tools_of(prompt, infos))]
    unused = [
        prompt for prompt in agentic if prompt.docker and prompt not in sandboxed and not prompt.rewards
    ]
    if unused:
        message = (
            f"`docker` in {len(unused)} rows, and no tool of theirs is sandboxed: no container is started"
        )
        hint = "mark the tool: @tool(sandbox=True)"
        found.add(Finding("RN240", "warning", message, hint, unused[0].file, unused[0].line, path="docker"))
    inside = [info for info in infos if info.sandbox]
    closed = [info.name for info in inside if not info.network]
    if closed and len(closed) < len(inside) and config.sandbox.network != "none":
        message = (
            f"`{closed[0]}` has network=False: rows with it have no network for their other sandboxed tools"
        )
        found.add(Finding("RN244", "warning", message, "name the `tools` of each row", TOOLS_FILE))
    if any(prompt.docker for prompt in sandboxed):
        _require(found, "RN402", "sandbox", lambda: asyncio.run(require_containers(config.sandbox)))
    if any(not prompt.docker for prompt in sandboxed):
        _require(found, "RN402", "sandbox", require_bubblewrap)


def _require(found: Findings, code: str, path: str, look: Callable[[], object]) -> None:
    """What `look` raises, as a finding."""
    try:
        look()
    except RnowError as error:
        found.add(Finding(code, "error", error.message, error.hint, path=path))


def _secrets(config: Config) -> list[Finding]:
    return [
        Finding(
            "RN403",
            "error",
            f"sandbox.secrets names {name}, and no environment variable of that name is set",
            f"export {name}, or write it into .env",
            path="sandbox.secrets",
        )
        for name in config.sandbox.secrets
        if not os.environ.get(name)
    ]

"""Tools of MCP servers (`rollout.mcp_url`): which there are, and calls of them.

Each rollout has a session of its own with each server that it calls: a server that keeps state keeps that of
rollouts apart, and a lost connection costs one rollout a call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rnow_core.env.mcp_session import McpSession, SessionLost, require_sdk, shown
from rnow_core.env.tool_arguments import ArgumentCheck
from rnow_core.env.tool_types import ResultKind, ToolInfo, ToolResult
from rnow_core.errors import EnvironmentMissing, RnowError

if TYPE_CHECKING:
    from mcp.types import CallToolResult, ContentBlock

LIST_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class McpServers:
    """The servers of a run. `key` goes to all of them as bearer token."""

    urls: Sequence[str]
    key: str | None = field(default=None, repr=False)

    async def tools(self, timeout: float = LIST_SECONDS) -> tuple[list[ToolInfo], list[RnowError]]:
        """The tools of the servers that answer within `timeout` seconds, and what is wrong with the others.

        EnvironmentMissing without the `mcp` package.
        """
        require_sdk()
        lists = await asyncio.gather(*(self._list(url, timeout) for url in self.urls), return_exceptions=True)
        tools, problems = [], []
        for listed in lists:
            if isinstance(listed, RnowError):
                problems.append(listed)
            elif isinstance(listed, BaseException):
                raise listed
            else:
                tools += listed
        return tools, problems

    def calls(self) -> McpCalls:
        """The calls of one rollout."""
        return McpCalls(self.key)

    async def _list(self, url: str, timeout: float) -> list[ToolInfo]:
        session = McpSession(url, self.key)
        try:
            async with asyncio.timeout(timeout):
                await session.start()
                offered = await session.tools()
        except TimeoutError as error:
            message = f"the MCP server at {shown(url)} did not list its tools within {timeout:g} s"
            raise EnvironmentMissing(message, "look whether it hangs, or correct rollout.mcp_url") from error
        except RnowError:
            raise
        except Exception as error:
            message = f"the MCP server at {shown(url)} does not list its tools: {session.reason(error)}"
            raise EnvironmentMissing(message, "look into the server's log") from error
        finally:
            await session.close()
        infos = [
            ToolInfo(tool.name, tool.description or "", tool.input_schema, server=url) for tool in offered
        ]
        for info in infos:
            _require_schema(info)
        return infos


class McpCalls:
    """The calls of one rollout to MCP servers. A session is begun by the first call that needs it."""

    def __init__(self, key: str | None) -> None:
        self._key = key
        self._sessions: dict[str, McpSession] = {}
        self._starting = asyncio.Lock()

    async def call(
        self, info: ToolInfo, arguments: Mapping[str, Any], *, timeout: float, limit: int
    ) -> ToolResult:
        """Call a tool. timeout: seconds, connecting included; limit: bytes of text. Whatever happens is a result."""
        name = info.name
        try:
            async with asyncio.timeout(timeout):
                return _result(await self._request(info, arguments), limit)
        except TimeoutError:
            return ToolResult(f"`{name}` took longer than {timeout:g} s and was stopped", False, "timeout")
        except EnvironmentMissing as error:
            return ToolResult(f"`{name}` could not run: {error.message}", False, "died")
        except SessionLost as error:
            return ToolResult(f"`{name}` lost its MCP server: {error.message}", False, "died")
        except Exception as error:
            return ToolResult(*_bounded(f"`{name}` failed: {error}", limit)[:1], False, _kind(error))

    async def close(self) -> None:
        """End the sessions."""
        sessions, self._sessions = self._sessions, {}
        await asyncio.gather(*(session.close() for session in sessions.values()))

    async def _request(self, info: ToolInfo, arguments: Mapping[str, Any]) -> CallToolResult:
        """Ask the server; once more in a new session where the old one was lost before the tool began."""
        session = await self._session(info.server)
        try:
            return await session.call(info.name, arguments)
        except SessionLost as lost:
            if not lost.unsent:
                raise
        session = await self._session(info.server)
        return await session.call(info.name, arguments)

    async def _session(self, url: str) -> McpSession:
        async with self._starting:
            known = self._sessions.get(url)
            if known is not None and known.alive:
                return known
            session = McpSession(url, self._key)
            await session.start()
            self._sessions[url] = session
            return session


def _require_schema(info: ToolInfo) -> None:
    try:
        ArgumentCheck(info.name, info.parameters)
    except RnowError as error:
        raise RnowError(f"the MCP server at {shown(info.server)}: {error.message}", error.hint) from error


def _kind(error: Exception) -> ResultKind:
    from mcp import MCPError
    from mcp.types import INVALID_PARAMS

    return "arguments" if isinstance(error, MCPError) and error.code == INVALID_PARAMS else "raised"


def _result(result: CallToolResult, limit: int) -> ToolResult:
    """What the model is told: the text; structured content only where the server does not write it as text too."""
    parts = [_part(block) for block in result.content]
    if result.structured_content is not None and not any(block.type == "text" for block in result.content):
        parts.insert(0, json.dumps(result.structured_content, ensure_ascii=False))
    text, cut = _bounded("\n".join(parts), limit)
    return ToolResult(text, not result.is_error, "raised" if result.is_error else "ok", cut=cut)


def _part(block: ContentBlock) -> str:
    if block.type == "text":
        return block.text
    if block.type == "resource_link":
        return f"[resource {block.name}: {block.uri}]"
    if block.type == "resource":
        text = getattr(block.resource, "text", None)
        return text if text is not None else f"[resource {block.resource.uri}: not text, not shown]"
    return f"[{block.type}, {block.mime_type}: not shown]"


def _bounded(text: str, limit: int) -> tuple[str, bool]:
    """At most `limit` bytes of the text, and whether it was cut."""
    whole = text.encode(errors="replace")
    if len(whole) <= limit:
        return whole.decode(), False
    kept = whole[:limit].decode(errors="ignore")
    return f"{kept}\n[output cut: the first {len(kept)} of {len(text)} characters]", True

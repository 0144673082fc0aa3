"""One session with an MCP server, over streamable HTTP or, at an address that ends in /sse, over SSE.

The SDK's contexts must be left by the task that entered them, so a session lives in a task of its own; requests may
come from any task, many at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rnow_core.errors import EnvironmentMissing, RnowError

if TYPE_CHECKING:
    import httpx2
    from mcp import Client
    from mcp.types import CallToolResult, Tool

KEY_VARIABLE = "RNOW_MCP_API_KEY"
_CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 86_400.0
"""For a stream without news: calls have time limits of their own."""
_CLOSE_SECONDS = 5.0
_EVENT_BYTES = 2**26
_MAX_PAGES = 100

logging.getLogger("mcp").addHandler(logging.NullHandler())  # else the SDK's warnings end up on the terminal


class SessionLost(RnowError):
    """The session is over. `unsent`: the server cannot have begun what was asked of it."""

    def __init__(self, message: str, unsent: bool) -> None:
        super().__init__(message)
        self.unsent = unsent


def shown(url: str) -> str:
    """The address without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def require_sdk() -> None:
    """EnvironmentMissing where the `mcp` package is not installed, or too old."""
    try:
        from mcp import Client  # noqa: F401
    except ImportError as error:
        message = f"rollout.mcp_url needs the Python package `mcp`, 2.3 or newer: {error}"
        raise EnvironmentMissing(message, 'pip install "rnow-distill[mcp]"') from error


class McpSession:
    """A session with the server at `url`; `key` is sent as bearer token."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._sse = urlsplit(url).path.rstrip("/").endswith("/sse")
        self._ending = asyncio.Event()
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._status: int | None = None

    @property
    def alive(self) -> bool:
        """Whether it was started and is not known to be over."""
        return self._task is not None and not self._task.done() and not self._ending.is_set()

    async def start(self) -> None:
        """Connect. EnvironmentMissing where that fails: it names the address and the fix."""
        require_sdk()
        self._task = asyncio.create_task(self._live())
        try:
            waited: set[asyncio.Future[Any]] = {self._task, self._client}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.close()
            raise
        if not self._client.done():
            message = f"no MCP server at {shown(self._url)}: {self.reason(self._error)}"
            raise EnvironmentMissing(message, self._fix())

    async def tools(self) -> list[Tool]:
        """What the server offers, all pages."""
        client, found = self._client.result(), []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        return found

    async def call(self, name: str, arguments: Mapping[str, Any]) -> CallToolResult:
        """Call a tool. SessionLost when the session is over, MCPError where the server refuses."""
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        self._status = None
        try:
            return await self._client.result().call_tool(name, dict(arguments))
        except MCPError as error:
            forgotten = self._forgotten()
            if not forgotten and error.code != CONNECTION_CLOSED:
                raise
            await self.close()
            # SSE tells too late that a connection is gone, and so cannot say what went out.
            unsent = forgotten or self._sse or self._refused()
            raise SessionLost(self.reason(self._error or error), unsent) from error

    async def close(self) -> None:
        """End the session; a server that does not answer is not waited for."""
        self._ending.set()
        if self._task is None:
            return
        patience = _CLOSE_SECONDS if self._client.done() else 0.0
        done, _ = await asyncio.wait({self._task}, timeout=patience)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})

    def reason(self, error: BaseException | None) -> str:
        """What went wrong, without secrets of the address."""
        if self._status is not None:
            return f"it answers HTTP {self._status}"
        causes = list(_leaves(error)) if error else []
        network = [
            cause for cause in causes if isinstance(cause, OSError) or "Connect" in type(cause).__name__
        ]
        for cause in network or causes:
            text = str(cause).replace(self._url, shown(self._url))
            return text or type(cause).__name__
        return "the connection was closed"

    async def _live(self) -> None:
        """Hold the session until it is to end. Kept in `_error`: what ended it before."""
        try:
            async with self._connected() as client:
                self._client.set_result(client)
                await self._ending.wait()
        except Exception as error:
            self._error = error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        import httpx2
        from mcp import Client
        from mcp.client.sse import sse_client
        from mcp.client.streamable_http import streamable_http_client

        if self._sse:
            transport = sse_client(
                self._url, self._headers, _CONNECT_SECONDS, _IDLE_SECONDS, httpx_client_factory=self._http
            )
            async with Client(transport, mode="legacy") as client:
                yield client
            return
        timeout = httpx2.Timeout(_IDLE_SECONDS, connect=_CONNECT_SECONDS)
        async with self._http(self._headers, timeout) as http:
            stream = streamable_http_client(self._url, http_client=http, max_sse_event_size=_EVENT_BYTES)
            async with Client(stream) as client:
                yield client

    def _http(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        import httpx2

        hooks = {"response": [self._note_status]}
        return httpx2.AsyncClient(headers=headers, timeout=timeout, auth=auth, event_hooks=hooks)

    async def _note_status(self, response: httpx2.Response) -> None:
        """The SDK's errors do not say which status a server answered."""
        if response.request.method == "POST" or self._sse:
            self._status = response.status_code if response.is_error else None

    def _forgotten(self) -> bool:
        """Whether the server no longer knows the session: 404, and 400 in some servers."""
        from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

        version = self._client.result().protocol_version
        return self._status in (400, 404) and version in HANDSHAKE_PROTOCOL_VERSIONS

    def _refused(self) -> bool:
        import httpx2

        return any(isinstance(cause, httpx2.ConnectError) for cause in _leaves(self._error))

    def _fix(self) -> str:
        if self._status in (401, 403):
            return f"set {KEY_VARIABLE} to the server's key (it is sent as bearer token)"
        if self._status in (404, 405):
            return "rollout.mcp_url needs the server's path too, such as http://localhost:8000/mcp"
        inside = "; one inside of a row's container cannot be used" if _is_local(self._url) else ""
        return f"start the server, or correct rollout.mcp_url{inside}"


def _is_local(url: str) -> bool:
    with suppress(ValueError):
        return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    return False


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    elif error is not None:
        yield error

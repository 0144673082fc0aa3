"""MCP servers made with the SDK, in processes of their own: `with running(...) as server`, or run as a script."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path


class Server:
    """A server process that can be stopped, and started again at the same address.

    tools: names of the tools below, or NAME=TOOL. transport: http, sse, or legacy (http with the sessions that servers
    had before 2026). key: the bearer token that it wants.
    """

    def __init__(self, folder: Path, tools: str, transport: str = "http", key: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/{'sse' if transport == 'sse' else 'mcp'}"
        self.calls = folder / f"calls-{self.port}"
        self._arguments = [str(self.port), tools, transport, str(self.calls), key]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        if self._process is not None:
            self.stop()  # one that is still dying would be taken for the new one
        self._process = subprocess.Popen([sys.executable, __file__, *self._arguments], stderr=subprocess.PIPE)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, self._process.stderr.read().decode()
            time.sleep(0.1)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        if self._process.poll() is None or not self._process.stderr.closed:
            self._process.kill()
            self._process.communicate()

    def called(self) -> list[str]:
        """The tools that ran, in order, over all its lives."""
        return self.calls.read_text().split() if self.calls.exists() else []


@contextmanager
def running(folder: Path, tools: str = "add,fail,hang,picture,record,die", **options: str):
    server = Server(folder, tools, **options).start()
    try:
        yield server
    finally:
        server.stop()


def tool_functions(calls: Path) -> dict[str, Callable]:
    """The tools by name; those that ran are noted, a line each, in the file `calls`."""
    import anyio
    from mcp.server.mcpserver import Context, Image
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import CallToolResult

    def note(name: str) -> None:
        with calls.open("a") as file:
            file.write(f"{name}\n")

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        note("add")
        return a + b

    def fail(text: str) -> str:
        """Always fails."""
        raise ToolError("no " + text)

    sessions: dict[str, list[str]] = {}

    def remember(word: str, ctx: Context) -> str:
        """All words of this session so far."""
        note(word)
        words = sessions.setdefault(ctx.headers["mcp-session-id"], [])
        words.append(word)
        return " ".join(words)

    async def wait_for(path: str) -> str:
        """Waits until there is such a file."""
        while not Path(path).exists():
            await anyio.sleep(0.02)
        return "there"

    def long(size: int) -> str:
        """Long text."""
        return "x" * size

    async def hang() -> str:
        """Never ends."""
        await anyio.sleep_forever()
        return ""

    def picture() -> list:
        """A picture and a caption."""
        return [Image(data=b"\x89PNG", format="png"), "a caption"]

    def record() -> CallToolResult:
        """Structured content alone."""
        return CallToolResult(content=[], structured_content={"name": "Zoë", "age": 3})

    def die() -> str:
        """Ends the server."""
        note("die")
        os._exit(1)

    functions = (add, fail, long, hang, picture, record, die, remember, wait_for)
    return {tool.__name__: tool for tool in functions}


def guarded(app, *, legacy: bool, key: str):
    """The app behind a bearer token, where there is a key; a legacy one does not know the newer handshake."""

    async def serve_or_refuse(scope, receive, send) -> None:
        headers = dict(scope.get("headers", ()))
        wanted = f"Bearer {key}".encode()
        status = 0
        if scope["type"] == "http" and key and headers.get(b"authorization") != wanted:
            status = 401
        if legacy and headers.get(b"mcp-method") == b"server/discover":
            status = 404
        if not status:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return serve_or_refuse


def serve(port: str, tools: str, transport: str, calls: str, key: str) -> None:
    import uvicorn
    from mcp.server.mcpserver import MCPServer

    server, known = MCPServer("tests", log_level="ERROR"), tool_functions(Path(calls))
    for name in tools.split(","):
        shown, _, source = name.partition("=")
        server.tool(name=shown)(known[source or shown])
    app = server.sse_app() if transport == "sse" else server.streamable_http_app()
    app = guarded(app, legacy=transport == "legacy", key=key)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error")


if __name__ == "__main__":
    serve(*sys.argv[1:])

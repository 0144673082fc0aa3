"""An HTTP proxy in front of a vLLM server that misbehaves on demand: real connections, real bytes."""

import asyncio
import json
from collections import Counter, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """What happens to one request. `status` answers in the server's place; `drop` closes without an answer;
    `cut` forwards and closes in the middle of the answer; `hold` keeps the answer until the proxy's `release` is
    set; `wait` (seconds) comes first."""

    status: int | None = None
    headers: str = ""
    drop: bool = False
    cut: bool = False
    hold: bool = False
    wait: float = 0.0


@dataclass
class FaultProxy:
    """Forwards to `upstream`, one connection a request. `faults` are used up, in order, by requests to `path`, or to
    any where it is None.

    `requests` counts by path, `delivered` the answers that went through, `failed` the faults that took one away.
    """

    upstream: Path
    path: str | None = "/v1/completions"
    faults: deque[Fault] = field(default_factory=deque)
    requests: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    failed: int = 0
    most_at_once: int = 0
    port: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)
    _now: int = 0
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Refuse connections from now on; those that are open end as they like."""
        self._server.close()

    async def end(self) -> None:
        """Refuse connections and drop those that are open, so that nothing outlives the event loop."""
        await self.shut()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader, writer):
        connection = asyncio.current_task()
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            path = lines[0].split()[1]
            self.requests[path] += 1
            fault = self.faults.popleft() if self.faults and self.path in (None, path) else Fault()
            await self._answer(lines[0], body, fault, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._now -= 1
            writer.close()

    async def _answer(self, request_line: str, body: bytes, fault: Fault, writer) -> None:
        await asyncio.sleep(fault.wait)
        self.failed += fault.drop or fault.cut or fault.status is not None
        if fault.drop:
            return
        if fault.status is not None:
            text = json.dumps({"error": {"message": "out of order"}})
            head = f"HTTP/1.1 {fault.status} Odd\r\ncontent-type: application/json\r\n{fault.headers}"
            writer.write(f"{head}content-length: {len(text)}\r\nconnection: close\r\n\r\n{text}".encode())
        else:
            answer = await self._forward(request_line, body)
            if fault.hold:
                await self.release.wait()
            writer.write(answer[: len(answer) // 2] if fault.cut else answer)
            self.delivered += not fault.cut
        await writer.drain()

    async def _forward(self, request_line: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self.upstream))
        head = f"{request_line}\r\nhost: vllm\r\nconnection: close\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def proxied(upstream: Path, *faults: Fault, path: str = "/v1/completions"):
    """An open proxy whose next requests to `path` meet `faults`."""
    proxy = FaultProxy(upstream, path=path, faults=deque(faults))
    await proxy.open()
    try:
        yield proxy
    finally:
        await proxy.end()

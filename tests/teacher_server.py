"""A stand-in teacher: an OpenAI-compatible chat server in a thread of its own, real HTTP, faults on order.

It counts what it was asked and what it answered, by prompt and turn. `script(prompt, turn, attempt)` gives what
goes wrong with a request (None = nothing); `reply(prompt, turn, body)` the message of an answer.
"""

import asyncio
import json
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Fault:
    status: int = 200
    headers: dict = field(default_factory=dict)
    body: dict | None = None
    reset: bool = False
    cut: bool = False
    delay: float = 0.0
    finish: str | None = None

    @property
    def answers(self):
        return self.status == 200 and self.body is None and not self.reset and not self.cut


def plain_reply(prompt, turn, body):
    return {"role": "assistant", "content": f"answer to {prompt}"}


class TeacherServer:
    def __init__(self, script=None, reply=plain_reply, *, delay=0.0, cost=0.001):
        self.script, self.reply, self.delay, self.cost = script, reply, delay, cost
        self.asked, self.answered, self.bodies, self.headers = Counter(), Counter(), [], []
        self.in_flight = self.most_in_flight = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    async def _serve(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()

    async def _connection(self, reader, writer):
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _request(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        headers = {name.lower(): value for name, value in headers.items()}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.bodies.append(body)
        self.headers.append(headers)
        prompt = next(m["content"] for m in body["messages"] if m["role"] == "user")
        turn = sum(m["role"] == "assistant" for m in body["messages"])
        self.asked[prompt, turn] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            fault = self.script(prompt, turn, self.asked[prompt, turn]) if self.script else None
            fault = fault or Fault()
            await asyncio.sleep(self.delay + fault.delay)
            return await self._answer(writer, fault, prompt, turn, body)
        finally:
            self.in_flight -= 1

    async def _answer(self, writer, fault, prompt, turn, body):
        if fault.reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        if fault.answers:
            message = self.reply(prompt, turn, body)
            finish = fault.finish or ("tool_calls" if message.get("tool_calls") else "stop")
            told = {
                "provider": "Stand-in",
                "choices": [{"message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "cost": self.cost},
            }
        else:
            told = fault.body or {"error": {"message": f"scripted {fault.status}", "code": fault.status}}
        data = json.dumps(told).encode()
        if fault.cut:
            data = data[: len(data) // 2]
        lines = [
            f"HTTP/1.1 {fault.status} X",
            "content-type: application/json",
            f"content-length: {len(data)}",
        ]
        lines += [f"{name}: {value}" for name, value in fault.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        await writer.drain()
        self.answered[prompt, turn] += fault.answers
        return True


@contextmanager
def teacher(*args, **options):
    server = TeacherServer(*args, **options)
    try:
        yield server
    finally:
        server.close()

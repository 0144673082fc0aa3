"""`rnow generate` against a rate-limited server with faults: throughput, then the same under repeated SIGKILL.

The server runs in its own process: 0.3 s latency, a token bucket of RATE requests a second (429 with Retry-After
beyond it), and 20 % of the rest are 500s, resets, slow bodies and truncated JSON. Prints one JSON line.
`share_of_bucket`: requests that the bucket let through, over what it would have, in the middle 80 % of the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

RATE = 100.0
BURST = 100.0
LATENCY_S = 0.3
FAULTS = 0.2


class Server:
    """The faulty teacher. Every request is a line of the log: time, prompt, what became of it."""

    def __init__(self, log: Path, retry_after: str) -> None:
        self.log = log.open("a")
        self.retry_after = retry_after
        self.random = random.Random(0)
        self.tokens, self.filled = BURST, time.monotonic()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it goes."""
        try:
            while await self.request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when the connection is over."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ", 1)[1].split("\r\n", 1)[0])
        prompt = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
        fate = self.fate()
        self.note(prompt, fate)
        if fate == "429":
            return await self.send(writer, 429, b'{"error": {"message": "slow down"}}')
        await asyncio.sleep(LATENCY_S)
        if fate == "reset":
            writer.transport.abort()
            return False
        if fate == "500":
            return await self.send(writer, 500, b"oops")
        answer = {
            "choices": [
                {"message": {"role": "assistant", "content": f"re: {prompt}"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9, "cost": 1e-5},
        }
        data = json.dumps(answer).encode()
        if fate == "cut":
            return await self.send(writer, 200, data[:40])
        await self.send(writer, 200, data, slow=fate == "slow")
        self.note(prompt, "answered")
        return True

    def fate(self) -> str:
        """What becomes of a request that comes now."""
        now = time.monotonic()
        self.tokens = min(BURST, self.tokens + (now - self.filled) * RATE)
        self.filled = now
        if self.tokens < 1:
            return "429"
        self.tokens -= 1
        faulty = self.random.random() < FAULTS
        return self.random.choice(["500", "reset", "slow", "cut"]) if faulty else "ok"

    def note(self, prompt: str, what: str) -> None:
        """Add a line to the log."""
        self.log.write(f"{time.time():.3f}\t{prompt}\t{what}\n")
        self.log.flush()

    async def send(self, writer: asyncio.StreamWriter, status: int, data: bytes, slow: bool = False) -> bool:
        """Write a response; a slow one pauses in its body."""
        wait = f"retry-after: {self.retry_after}\r\n" if status == 429 else ""
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{wait}content-length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + (data[:20] if slow else data))
        if slow:
            await asyncio.sleep(2.0)
            writer.write(data[20:])
        await writer.drain()
        return True


async def serve(log: Path, retry_after: str) -> None:
    server = await asyncio.start_server(Server(log, retry_after).connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def measure(
    folder: Path, prompts: int, concurrency: int, kill_s: float | None, retry_after: str
) -> dict[str, Any]:
    folder.mkdir()
    log = folder / "server.log"
    served = [sys.executable, __file__, "--serve", str(log), "--retry-after", retry_after]
    server = subprocess.Popen(served, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    rows = (json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(prompts))
    (folder / "prompts.jsonl").write_text("".join(rows))
    command = [
        sys.executable,
        "-m",
        "rnow",
        "generate",
        "prompts.jsonl",
        "-t",
        "none",
        "-c",
        str(concurrency),
    ]
    command += ["--base-url", f"http://127.0.0.1:{port}/v1", "--key-env", "none"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    kills, started, code = 0, time.time(), None
    try:
        while code != 0:
            run = subprocess.Popen(
                command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            try:
                _, said = run.communicate(timeout=kill_s)
                if run.returncode != 0:
                    raise SystemExit(said)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.communicate()
                kills += 1
            code = run.returncode
    finally:
        server.kill()
        server.wait()
    return {"kills": kills, "seconds": round(time.time() - started, 1), **accounts(folder, prompts)}


def accounts(folder: Path, prompts: int) -> dict[str, Any]:
    """What the server's log and the outputs say."""
    notes = [line.split("\t") for line in (folder / "server.log").read_text().splitlines()]
    outputs = [folder / "train.jsonl", folder / "rejected.jsonl"]
    ended = [
        json.loads(line)["messages"][0]["content"]
        for path in outputs
        for line in path.read_text().splitlines()
    ]
    through = [float(when) for when, _, what in notes if what not in ("429", "answered")]
    first, last = through[0], through[-1]
    low, high = first + 0.1 * (last - first), last - 0.1 * (last - first)
    middle = sum(low <= when <= high for when in through)
    bought = Counter(prompt for _, prompt, what in notes if what == "answered")
    return {
        "ended_once": Counter(ended) == Counter(f"question {i}" for i in range(prompts)),
        "rejected": len(outputs[1].read_text().splitlines()),
        "share_of_bucket": round(middle / (RATE * (high - low)), 3),
        "answers_twice": sum(bought.values()) - len(bought),
        "slowed": sum(what == "429" for *_, what in notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("-c", "--concurrency", type=int, default=64)
    parser.add_argument(
        "--kill", type=float, default=3.0, help="seconds between kills; 0 = only the first part"
    )
    parser.add_argument("--retry-after", default="1")
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.retry_after))
        return
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {
            "benchmark": "generate",
            "prompts": given.prompts,
            "concurrency": given.concurrency,
        }
        result["plain"] = measure(
            Path(folder) / "plain", given.prompts, given.concurrency, None, given.retry_after
        )
        if given.kill:
            killed = measure(
                Path(folder) / "kill", given.prompts, given.concurrency, given.kill, given.retry_after
            )
            result["killed"] = killed
        print(json.dumps(result))


if __name__ == "__main__":
    main()

"""`rnow generate` against a rate-limited server with faults: throughput, then the same under repeated SIGKILL.

The server runs in its own process: 0.3 s latency, a token bucket of RATE requests a second (429 with Retry-After
beyond it), and 20 % of the rest are 500s, resets, slow bodies and truncated JSON. Prints one JSON line.
`share_of_bucket`: requests that the bucket let through, over what it would have, in the middle 80 % of the run.
Each burst of `--bursts` is such a run. A bucket that saves up a burst as large as a pause loses nothing by the pause;
with a small one every 429 costs a second.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATE = 100.0
LATENCY_S = 0.3
FAULTS = 0.2


class Server:
    """The faulty teacher. Every request is a line of the log: time, prompt, what became of it."""

    def __init__(self, log: Path, retry_after: str, burst: float) -> None:
        self.log = log.open("a")
        self.retry_after = retry_after
        self.random = random.Random(0)
        self.burst = burst
        self.tokens, self.filled = burst, time.monotonic()

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
        self.tokens = min(self.burst, self.tokens + (now - self.filled) * RATE)
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


async def serve(log: Path, retry_after: str, burst: float) -> None:
    server = await asyncio.start_server(Server(log, retry_after, burst).connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Run:
    """One measurement. `kill_s`: seconds between SIGKILLs, None for none."""

    folder: Path
    prompts: int
    concurrency: int
    retry_after: str
    burst: float
    kill_s: float | None = None

    def measure(self) -> dict[str, Any]:
        """Generate to the end; what it took and what became of the prompts."""
        self.folder.mkdir()
        rows = (json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(self.prompts))
        (self.folder / "prompts.jsonl").write_text("".join(rows))
        log = self.folder / "server.log"
        served = [sys.executable, __file__, "--serve", str(log), "--retry-after", self.retry_after]
        server = subprocess.Popen([*served, "--bursts", str(self.burst)], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        started = time.time()
        try:
            finished_at_kills = self._generate(server.stdout.readline().strip())
        finally:
            server.kill()
            server.wait()
        seconds = round(time.time() - started, 1)
        return {"burst": self.burst, "seconds": seconds, **self._accounts(log, finished_at_kills)}

    def _generate(self, port: str) -> list[tuple[float, set[str]]]:
        """Give the command until it ends by itself. Of each kill: when, and the prompts with a row by then."""
        command = [sys.executable, "-m", "rnow", "generate", "prompts.jsonl", "-t", "none"]
        command += [
            "-c",
            str(self.concurrency),
            "--base-url",
            f"http://127.0.0.1:{port}/v1",
            "--key-env",
            "none",
        ]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        kills = []
        while True:
            run = subprocess.Popen(
                command, cwd=self.folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )
            try:
                _, said = run.communicate(timeout=self.kill_s)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.communicate()
                kills.append((time.time(), set(self._ended())))
                continue
            if run.returncode != 0:
                raise SystemExit(said.decode())
            return kills

    def _ended(self) -> list[str]:
        """The prompts of all rows; the last line of a killed run may be incomplete."""
        texts = [file.read_text() for file in self._outputs if file.exists()]
        lines = [line for text in texts for line in text.split("\n")[:-1]]
        return [json.loads(line)["messages"][0]["content"] for line in lines]

    @property
    def _outputs(self) -> list[Path]:
        return [self.folder / "train.jsonl", self.folder / "rejected.jsonl"]

    def _accounts(self, log: Path, kills: list[tuple[float, set[str]]]) -> dict[str, Any]:
        """What the server's log and the outputs say."""
        lines = [line.split("\t") for line in log.read_text().splitlines()]
        notes = [(float(when), prompt, what) for when, prompt, what in lines]
        through = [when for when, _, what in notes if what not in ("429", "answered")]
        first, last = through[0], through[-1]
        low, high = first + 0.1 * (last - first), last - 0.1 * (last - first)
        middle = sum(low <= when <= high for when in through)
        bought = Counter(prompt for _, prompt, what in notes if what == "answered")
        requests = [(when, prompt) for when, prompt, what in notes if what != "answered"]
        again = [
            prompt for when, prompt in requests if any(when > at and prompt in done for at, done in kills)
        ]
        return {
            "kills": len(kills),
            "ended_once": Counter(self._ended()) == Counter(f"question {i}" for i in range(self.prompts)),
            "rejected": len(self._outputs[1].read_text().splitlines()),
            "share_of_bucket": round(middle / (RATE * (high - low)), 3),
            "slowed": sum(what == "429" for *_, what in notes),
            "answers_twice": sum(bought.values()) - len(bought),
            "requests_of_finished_prompts": len(again),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("-c", "--concurrency", type=int, default=64)
    parser.add_argument("--bursts", type=float, nargs="+", default=[100.0, 10.0])
    parser.add_argument(
        "--kill", type=float, default=4.0, help="seconds between kills; 0 = without that part"
    )
    parser.add_argument("--retry-after", default="1")
    parser.add_argument("--serve", type=Path)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.retry_after, given.bursts[0]))
        return
    from common import hardware

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = (given.prompts, given.concurrency, given.retry_after)
        plain = [Run(folder / f"burst-{burst:g}", *asked, burst).measure() for burst in given.bursts]
        killed = Run(folder / "killed", *asked, given.bursts[0], given.kill).measure() if given.kill else None
    result = {
        "benchmark": "generate",
        "prompts": given.prompts,
        "concurrency": given.concurrency,
        "plain": plain,
        "killed": killed,
        "limit": 0.9,
        "passed": _passed(plain, killed),
        "load_before": round(load, 2),
        "hardware": hardware(),
    }
    print(json.dumps(result))


def _passed(plain: list[dict[str, Any]], killed: dict[str, Any] | None) -> bool:
    runs = [*plain, *([killed] if killed else [])]
    whole = all(run["ended_once"] and run["requests_of_finished_prompts"] == 0 for run in runs)
    return whole and all(run["share_of_bucket"] >= 0.9 for run in plain)


if __name__ == "__main__":
    main()

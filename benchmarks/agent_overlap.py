"""While one rollout waits for a tool, others generate: what sleeping tools cost a step, and what a container costs.

16 rollouts of 4 turns call a tool that sleeps 0 to 2 s by seed. The steps of such a run are compared with the same
steps without sleeping: the difference may be 1.15 times the largest sum of sleeps of one rollout. Then a warm pool
hands a container to each rollout, which may take 0.2 s. Prints one JSON line.

    python benchmarks/agent_overlap.py [--steps 3] [--image rnow-test/python:1]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import Size, hardware, make_project
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from rnow_core.config.rollouts import SandboxConfig
from rnow_core.data.bridge import turn_ids
from rnow_core.data.renderer import Renderer
from rnow_core.env.sandbox.containers import start_containers
from rnow_core.env.tool_types import SandboxSpec
from rnow_core.errors import RnowError
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.events import Event

LIMIT = 1.15
CONTAINER_LIMIT = 0.2
ROLLOUTS = 16
TURNS = 4
LONGEST = 2.0
WARM_UP = 1
REPLY_TOKENS = 24
SIZE = Size((64, 2), (64, 2), 128, ROLLOUTS, 1, 8, 64, learning_rate=1e-7)
CALL = '<tool_call>{"name": "wait", "arguments": {}}</tool_call>'
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n{{ m.content }}"
    '{% for call in m.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = '''import time
from pathlib import Path

from rnow import ToolArgs, tool


@tool
def wait(args: ToolArgs) -> str:
    """Sleep as long as the row says for this call."""
    made = Path(args.metadata["made"])
    with made.open("a") as file:
        file.write(".")
    time.sleep(args.metadata["sleeps"][made.stat().st_size - 1])
    return "ok"
'''

PING = '''from rnow import tool


@tool(sandbox=True)
def ping() -> str:
    """Say so."""
    return "pong"
'''


def make_agent(folder: Path, steps: int) -> Path:
    """A project whose student counts to 24, calls the tool, and does so again; two data files."""
    make_project(folder, SIZE, steps)
    for name in ("student", "teacher"):
        _speak_of_calls(folder / name)
    _teach(folder / "student")
    (folder / "tools.py").write_text(TOOLS)
    for kind, longest in (("asleep", LONGEST), ("awake", 0.0)):
        (folder / kind).mkdir()
        lines = [json.dumps(_row(folder / kind, row, longest)) for row in range(SIZE.batch_size * steps)]
        (folder / f"{kind}.jsonl").write_text("\n".join(lines) + "\n")
    yaml = YAML()
    config = yaml.load(folder / "config.yml")
    config["rollout"] |= {"max_turns": TURNS, "tool_call_format": "hermes"}
    yaml.dump(config, folder / "config.yml")
    return folder


def _row(made: Path, row: int, longest: float) -> dict[str, Any]:
    sleeps = [random.Random(f"{row}/{turn}").uniform(0, longest) for turn in range(TURNS)]
    letters = "".join(random.Random(row).choices("abcdefghijklmnopqrstuvwxyz", k=SIZE.prompt_characters))
    metadata = {"sleeps": sleeps, "made": str(made / str(row))}
    return {"messages": [{"role": "user", "content": letters}], "metadata": metadata}


def _speak_of_calls(folder: Path) -> None:
    """One token is a whole call; the template knows tools."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"][CALL] = tokenizer["model"]["vocab"].pop("<0>")
    file.write_text(json.dumps(tokenizer))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": TEMPLATE}))


def _teach(folder: Path, steps: int = 150) -> None:
    """Train a model on the conversation that it shall have."""
    renderer = Renderer.load(folder)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    reply = [*(vocabulary[f"<{number}>"] for number in range(1, REPLY_TOKENS + 1)), vocabulary[CALL], 2]
    answer = [{"role": "tool", "name": "wait", "tool_call_id": "call00000", "content": "ok"}]
    glue = turn_ids(renderer, answer)
    rows, labels = [], []
    for row in range(4):
        prompt = renderer.prompt_ids(_row(folder, row, 0.0)["messages"])
        rows.append([*prompt, *([*reply, *glue] * TURNS)])
        labels.append([*[-100] * len(prompt), *([*reply, *[-100] * len(glue)] * TURNS)])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.99))
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=torch.tensor(rows), labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def run(folder: Path, kind: str) -> list[dict[str, float]]:
    """The metrics of each step."""
    seen: list[dict[str, float]] = []

    def emit(event: Event) -> None:
        if event.kind == "step":
            seen.append(dict(event.fields["metrics"]))

    overrides = [f"data.train_file={kind}.jsonl"]
    train(folder, overrides=overrides, name=kind, resume=False, emit=emit, stop=StopSignal())
    return seen


def largest_sums(folder: Path) -> list[float]:
    """For each step, the most seconds that one of its rollouts slept."""
    traces = sorted((folder / "runs" / "asleep" / "rollouts").iterdir())
    rows = [json.loads(line) for line in (folder / "asleep.jsonl").read_text().splitlines()]
    largest = []
    for trace in traces:
        records = [json.loads(line) for line in trace.read_text().splitlines()]
        slept = []
        for record in records:
            metadata = rows[record["line"] - 1]["metadata"]
            made = Path(metadata["made"])
            slept.append(sum(metadata["sleeps"][: made.stat().st_size]) if made.exists() else 0.0)
        largest.append(max(slept))
    return largest


def overlap(steps: int) -> dict[str, Any]:
    """What sleeping costs the steps behind the first, in which the tools' processes start."""
    with tempfile.TemporaryDirectory() as name:
        folder = make_agent(Path(name), steps + WARM_UP)
        awake, asleep = run(folder, "awake"), run(folder, "asleep")
        largest = largest_sums(folder)[WARM_UP:]
    pairs = list(zip(awake, asleep, strict=True))[WARM_UP:]
    differences = [slow["time/step"] - fast["time/step"] for fast, slow in pairs]
    ratios = [difference / most for difference, most in zip(differences, largest, strict=True)]
    ratio = statistics.median(ratios)
    return {
        "turns_mean": statistics.mean(slow["turns/mean"] for _, slow in pairs),
        "awake_seconds": _rounded(fast["time/step"] for fast, _ in pairs),
        "asleep_seconds": _rounded(slow["time/step"] for _, slow in pairs),
        "largest_sum_of_sleeps": _rounded(largest),
        "ratio": round(ratio, 3),
        "ratios": _rounded(ratios),
        "limit": LIMIT,
        "passed": ratio <= LIMIT,
    }


def _rounded(values: Any) -> list[float]:
    return [round(value, 3) for value in values]


def containers(image: str, count: int, rounds: int) -> dict[str, Any]:
    """How long rollouts wait for a container of their own, or why that cannot be measured here."""
    try:
        cold, warm = asyncio.run(_opened(image, count, rounds))
    except RnowError as error:
        return {"skipped": f"{error.message}: {error.hint}".strip(": "), "limit": CONTAINER_LIMIT}
    mean = statistics.mean(warm)
    return {
        "image": image,
        "at_once": count,
        "cold_seconds": round(statistics.mean(cold), 3),
        "warm_seconds": round(mean, 4),
        "warm_range": _rounded((min(warm), max(warm))),
        "limit": CONTAINER_LIMIT,
        "passed": mean <= CONTAINER_LIMIT,
    }


async def _opened(image: str, count: int, rounds: int) -> tuple[Sequence[float], Sequence[float]]:
    """Seconds that each rollout waits: in the first step, and in the others, for which the pool had a step's time."""
    config = SandboxConfig(memory="256m", max_containers=2 * count, network="none")
    spec = SandboxSpec(image, {}, {}, False, {"tools.py": PING})
    waits: list[list[float]] = []
    with tempfile.TemporaryDirectory() as name:
        async with await start_containers(config, Path(name), run="benchmark") as sandboxes:
            sandboxes.prepare(spec, 2 * count)
            for _ in range(rounds + 1):
                waits.append(list(await asyncio.gather(*(_use(sandboxes, spec) for _ in range(count)))))
                await asyncio.sleep(2 * max(waits[0]))
    return waits[0], [seconds for step in waits[1:] for seconds in step]


async def _use(sandboxes: Any, spec: SandboxSpec) -> float:
    """One rollout: wait for its sandbox, give it back."""
    started = time.perf_counter()
    sandbox = await sandboxes.open(spec)
    seconds = time.perf_counter() - started
    await sandbox.close()
    return seconds


def main() -> None:
    """Measure both and print the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument(
        "--image", default="docker.io/library/python:3.12-alpine", help="a small one with Python"
    )
    parser.add_argument("--containers", type=int, default=4, help="rollouts with a container at once")
    options = parser.parse_args()
    shape = {"rollouts": ROLLOUTS, "turns": TURNS}
    result = {"tools": overlap(options.steps), "containers": containers(options.image, options.containers, 3)}
    print(json.dumps({"benchmark": "agent_overlap", **shape, **result, "hardware": hardware()}))


if __name__ == "__main__":
    main()

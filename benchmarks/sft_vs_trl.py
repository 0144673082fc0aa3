"""`sft` of rnow against TRL's SFTTrainer: the same weights, conversations and optimizer, on the CPU in float32.

    python -m venv ~/trl && ~/trl/bin/pip install torch==2.13.0 trl 'transformers>=5.16' peft
    python benchmarks/sft_vs_trl.py --trl-python ~/trl/bin/python [--steps 7] [--threads 2] [--rank 0]

TRL trains packed (its default strategy) and padded (rows of similar length together); the faster counts. Every side
runs in a process of its own, all of them alive for the whole call and stepping in turns, one at a time. A step is one
optimizer step on all conversations, whose lengths are log-normal. The loss before the first update must be the same.

Prints one JSON line: tokens a second (medians over the steps but the first) with their range, by the clock and by
processor time (which other work on the machine disturbs less), the ratios of each pair of steps, and the peak of the
resident size above what it was before the first step, against TRL's leaner way. Without TRL it says so and measures
nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Size, hardware, make_project

SIDES = ("rnow", "trl-packed", "trl-padded")
HOW = "make an environment with it (see the top of benchmarks/sft_vs_trl.py) and name its python: --trl-python PATH"


class Side:
    """A process that trains when it is told to."""

    def __init__(self, python: str, name: str, work: Path) -> None:
        command = [python, str(Path(__file__).with_name("sft_side.py")), name, str(work)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        self.facts = self._answer()
        self.steps: list[dict[str, float]] = []

    def step(self) -> None:
        """Let it make one step, and note what it says of it."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.steps.append(self._answer())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.process.args!r}: ended with status {self.process.wait()}")
        return json.loads(answer)


def conversations(
    count: int, vocabulary: int, median: float, shortest: int, longest: int
) -> list[dict[str, Any]]:
    """Random ids with log-normal lengths; the first third of each is a prompt, whose labels are -100."""
    stream = random.Random(0)
    rows = []
    for _ in range(count):
        length = min(longest, max(shortest, int(stream.lognormvariate(math.log(median), 0.8))))
        ids = [stream.randrange(vocabulary) for _ in range(length)]
        rows.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :]})
    return rows


def have_trl(python: str) -> bool:
    found = subprocess.run([python, "-c", "import trl.trainer.sft_trainer"], capture_output=True, check=False)
    return found.returncode == 0


def summary(side: Side, tokens: int) -> dict[str, Any]:
    speeds = sorted(tokens / step["wall"] for step in side.steps[1:])
    return {
        "tokens_per_second": round(statistics.median(speeds)),
        "range": [round(speeds[0]), round(speeds[-1])],
        "tokens_per_processor_second": round(tokens / statistics.median(s["cpu"] for s in side.steps[1:])),
        "peak_extra_mib": round(max(step["peak_mib"] for step in side.steps)),
        "first_loss": round(side.steps[0]["loss"], 5),
        "last_loss": round(side.steps[-1]["loss"], 5),
        "versions": {name: value for name, value in side.facts.items() if name != "ready"},
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    size = Size((arguments.hidden, arguments.layers), (32, 1), arguments.vocabulary, 1, 1, 8, 8)
    model = make_project(folder, size, 1) / "student"
    rows = conversations(arguments.conversations, arguments.vocabulary, 150, 50, 500)
    work = {
        "model": str(model),
        "rows": rows,
        "steps": arguments.steps,
        "threads": arguments.threads,
        "rank": arguments.rank,
        "learning_rate": 1e-3,
        "micro_batch_tokens": arguments.micro_batch_tokens,
        "trl_batch": 8,
        "output": str(folder / "trl"),
    }
    (folder / "work.json").write_text(json.dumps(work))
    pythons = [sys.executable, arguments.trl_python, arguments.trl_python]
    sides = [Side(python, name, folder / "work.json") for python, name in zip(pythons, SIDES, strict=True)]
    for _ in range(arguments.steps):
        for side in sides:
            side.step()
    for side in sides:
        side.close()
    losses = [side.steps[0]["loss"] for side in sides]
    assert max(losses) - min(losses) <= 1e-4 * losses[0], f"the losses before the first step differ: {losses}"
    tokens = sum(len(row["input_ids"]) for row in rows)
    found = {name: summary(side, tokens) for name, side in zip(SIDES, sides, strict=True)}
    best = max(SIDES[1:], key=lambda name: found[name]["tokens_per_processor_second"])
    pairs = list(zip(sides[0].steps[1:], sides[SIDES.index(best)].steps[1:], strict=True))
    ratios = {
        clock: sorted(theirs[clock] / ours[clock] for ours, theirs in pairs) for clock in ("wall", "cpu")
    }
    medians = {clock: round(statistics.median(values), 3) for clock, values in ratios.items()}
    ours_mib = found["rnow"]["peak_extra_mib"]
    theirs_mib = min(found[name]["peak_extra_mib"] for name in SIDES[1:])
    return {
        "tokens": tokens,
        "sides": found,
        "faster_trl": best,
        "ratio": medians,
        "ratio_range": {clock: [round(v[0], 3), round(v[-1], 3)] for clock, v in ratios.items()},
        "memory_ratio": round(ours_mib / theirs_mib, 3),
        "limit": 1.0,
        "passed": min(medians.values()) >= 1.0 and ours_mib < theirs_mib,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl-python", default=sys.executable)
    for name, value in [("steps", 7), ("threads", 2), ("rank", 0), ("conversations", 32)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in [("hidden", 256), ("layers", 4), ("vocabulary", 2048)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--micro-batch-tokens", type=int, default=1024, help="of both packed sides")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "sft_vs_trl"}
    if not have_trl(arguments.trl_python):
        print(json.dumps(result | {"skipped": f"{arguments.trl_python} has no trl: {HOW}"}))
        return
    names = ("hidden", "layers", "vocabulary", "conversations", "rank", "steps", "micro_batch_tokens")
    result |= {name: getattr(arguments, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(arguments, Path(folder) / "project")
    print(json.dumps(result | {"hardware": hardware() | {"threads": arguments.threads}}))


if __name__ == "__main__":
    main()

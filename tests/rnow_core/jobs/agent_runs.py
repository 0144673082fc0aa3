"""Conversations that tiny students are taught, and whole runs of agents."""

import json
from pathlib import Path

from agents import processes_in, tool_call
from ruamel.yaml import YAML

from rnow_core.env.tool_pool import inspect_tools
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal
from rnow_core.track.metrics import read_metrics


def question(i: int) -> dict:
    return {"role": "user", "content": f"{i}+{i + 1}=?"}


def asked_twice(i: int) -> list[dict]:
    """Three turns: i + (i + 1), then one more, then the answer."""
    total = 2 * i + 1
    return [
        question(i),
        {"role": "assistant", "content": "", "tool_calls": [tool_call("add", a=i, b=i + 1)]},
        {"role": "tool", "content": str(total)},
        {"role": "assistant", "content": "", "tool_calls": [tool_call("add", a=total, b=1)]},
        {"role": "tool", "content": str(total + 1)},
        {"role": "assistant", "content": f"{total + 1}"},
    ]


def asked_once(i: int) -> list[dict]:
    return [*asked_twice(i)[:3], {"role": "assistant", "content": f"{2 * i + 1}"}]


def guessed(i: int) -> list[dict]:
    return [question(i), {"role": "assistant", "content": f"{2 * i}"}]


def write_config(folder: Path, config: dict) -> None:
    with (folder / "config.yml").open("w") as file:
        YAML().dump(config, file)


def schemas(folder: Path, *names: str) -> list[dict]:
    return [info.schema() for info in inspect_tools(folder) if info.name in names]


def run(folder: Path, name: str, *overrides: str, resume: bool = False) -> list[dict]:
    """Train; the metrics of the steps. Nothing that was started is still there afterwards."""
    train(
        folder,
        overrides=list(overrides),
        name=name,
        resume=resume,
        emit=lambda event: None,
        stop=StopSignal(),
    )
    assert not processes_in(folder)
    return [row for row in read_metrics(folder / "runs" / name / "metrics.jsonl") if "loss/policy" in row]


def traces(folder: Path, name: str) -> list[dict]:
    files = sorted((folder / "runs" / name / "rollouts").iterdir())
    return [json.loads(line) for file in files for line in file.open()]


def said(record: dict, role: str) -> list[str]:
    return [message["content"] for message in record["messages"] if message["role"] == role]

"""The on-distill-agent template from `rnow init` to an adapter: a real container, recorded pages, tiny models."""

import asyncio
import json
import subprocess
import sys
import time

import pytest
import torch
from agents import make_agent_model, processes_in, teach, tool_call
from offline_image import IMAGE
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rnow_core.env.sandbox.cleanup import list_sandboxes
from rnow_core.env.tool_pool import inspect_tools

pytestmark = pytest.mark.container

ADDRESS = "https://trials.example.org/study/EX-1001"
SMALLER = (
    *("data.train_file=offline.jsonl", "data.group_size=1", "trainer.max_steps=2", "model.qlora_rank=4"),
    *("rollout.max_tokens=130", "rollout.max_tool_response=60", "rollout.max_context_window=1024"),
    *("sandbox.memory=256m", "sandbox.cpus=1", "sandbox.pids=64"),
)


def rnow(folder, *words):
    """The output of a command in a folder; it must succeed."""
    ended = subprocess.run(
        [sys.executable, "-m", "rnow", *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def browsing(row):
    """Open the same page whatever the question is, then answer."""
    return [
        *row["messages"],
        {"role": "assistant", "content": "", "tool_calls": [tool_call("browse", url=ADDRESS)]},
        {"role": "tool", "content": "# Lumivastat in adults with high cholesterol\n[cut: 60 of 333 tokens]"},
        {"role": "assistant", "content": "lumivastat"},
    ]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The template as a user has it after `init`, with models and a base image of this machine."""
    above = tmp_path_factory.mktemp("template")
    folder = above / "agent"
    models = ("--set", "student=./student", "--set", "teacher=./teacher")
    rnow(above, "init", "on-distill-agent", "agent", *models)
    dockerfile = folder / "Dockerfile.replay"
    dockerfile.write_text(dockerfile.read_text().replace("docker.io/library/python:3.12-slim", IMAGE))
    assert f"FROM {IMAGE}" in dockerfile.read_text()
    rows = [json.loads(line) for line in (folder / "offline.jsonl").read_text().splitlines()]
    tools = [info.schema() for info in inspect_tools(folder)]
    for name, seed, steps in (("student", 1, 60), ("teacher", 2, 20)):
        make_agent_model(folder / name, seed=seed)
        teach(folder / name, [browsing(row) for row in rows[:2]], tools, steps)
    return folder


def test_from_init_to_an_adapter_without_internet(project, container_engine):
    name = f"template-{project.parent.name}"
    report = json.loads(rnow(project, "validate", *SMALLER, "--json"))
    assert not [finding for finding in report["findings"] if finding["severity"] == "error"]
    rnow(project, "run", *SMALLER, "--name", name)

    run = project / "runs" / name
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    trained = [metrics for metrics in steps if "loss/policy" in metrics]
    assert [metrics["step"] for metrics in trained] == [1, 2]
    assert all(metrics["rollouts/failed"] == 0 and metrics["mismatch_kl"] < 1e-4 for metrics in trained)
    records = [json.loads(line) for file in sorted((run / "rollouts").iterdir()) for line in file.open()]
    read = [m["content"] for record in records for m in record["messages"] if m["role"] == "tool"]
    assert [text for text in read if text.startswith("# Lumivastat in adults") and "[cut: 60 of" in text], (
        read
    )
    assert any("teacher_kl/turn_2" in metrics for metrics in trained)

    base = AutoModelForCausalLM.from_pretrained(project / "student")
    ids = torch.tensor([records[0]["prompt_ids"]])
    before = base(ids).logits.detach().clone()
    adapted = PeftModel.from_pretrained(base, max((run / "checkpoints").iterdir()))
    assert not torch.equal(adapted(ids).logits, before)
    assert_nothing_is_left(project, name, container_engine)


def test_killed_with_containers_running_and_resumed(project, container_engine):
    """A container for each rollout this time; nobody is left to remove them, until the run is resumed."""
    name = f"killed-{project.parent.name}"
    settings = [*SMALLER, "sandbox.scope=rollout", "sandbox.max_containers=4", "trainer.save_step=1"]
    command = [sys.executable, "-m", "rnow", "run", *settings, "--name", name]
    first = project / "runs" / name / "checkpoints" / "step_000001"
    with subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL) as process:
        while not first.exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
    assert containers_of(name, container_engine)
    rnow(project, "run", "--resume", "--name", name)
    assert json.loads((project / "runs" / name / "status.json").read_text())["state"] == "finished"
    assert_nothing_is_left(project, name, container_engine)


def containers_of(run, engine):
    return [row.name for row in asyncio.run(list_sandboxes(engine)) if row.run == run]


def assert_nothing_is_left(project, run, engine):
    assert containers_of(run, engine) == []
    assert not processes_in(project)

"""Whole runs on the session's vLLM servers, and what is left of them to compare.

The servers listen on Unix sockets; a proxy in front of each gives it a URL, and the faults.
"""

import asyncio
import json
import os
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from fault_proxy import FaultProxy
from safetensors.torch import load_file
from tiny import row, write_config, write_rows
from vllm_fixtures import CONTEXT, Served

from rnow_core.errors import RnowError
from rnow_core.jobs.train import train
from rnow_core.stop import StopSignal

STEPS, BATCH, GROUP = 3, 4, 2
ROLLOUTS = BATCH * GROUP
MISMATCH = 1e-4
ADAPTER = "adapter_model.safetensors"


@dataclass
class Ran:
    """One attempt at a run: its events, and its summary or the error that ended it."""

    folder: Path
    events: list = field(default_factory=list)
    summary: dict | None = None
    error: RnowError | None = None

    def of(self, kind: str) -> list:
        """The fields of all events of a kind."""
        return [event.fields for event in self.events if event.kind == kind]

    @property
    def steps(self) -> list[dict]:
        return [fields["metrics"] for fields in self.of("step")]

    @property
    def status(self) -> dict:
        return json.loads((self.folder / "status.json").read_text())

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir())

    def adapter(self) -> torch.Tensor:
        """The last checkpoint's adapter as one vector."""
        weights = load_file(self.folder / "checkpoints" / self.checkpoints()[-1] / ADAPTER)
        return torch.cat([weights[name].flatten() for name in sorted(weights)])

    def traces(self) -> dict[int, list[dict]]:
        """Each step's rollouts as they were written down."""
        files = sorted((self.folder / "rollouts").iterdir())
        return {int(file.stem[-6:]): [json.loads(line) for line in file.open()] for file in files}

    def sampled_ids(self) -> dict[tuple[int, int, int], list[int]]:
        """The sampled ids by step, row and number in the group."""
        return {
            (step, one["row"], one["sample"]): one["ids"]
            for step, rollouts in self.traces().items()
            for one in rollouts
        }


def run(project: Path, name: str, *, overrides=(), resume: bool = False, on_event=lambda event: None) -> Ran:
    """Train to the end, or to the error."""
    ran = Ran(project / "runs" / name)

    def emit(event) -> None:
        ran.events.append(event)
        on_event(event)

    try:
        ran.summary = train(
            project, overrides=overrides, name=name, resume=resume, emit=emit, stop=StopSignal()
        )
    except RnowError as error:
        ran.error = error
    return ran


def assert_complete(ran: Ran, steps: int) -> None:
    """Every rollout of every step was trained once, and the sampler's logprobs are the learner's."""
    assert ran.error is None, ran.error
    traces = ran.traces()
    assert sorted(traces) == list(range(1, steps + 1))
    for rollouts in traces.values():
        assert len(rollouts) == len({(one["row"], one["sample"]) for one in rollouts}) == ROLLOUTS
        assert all(None not in one["teacher"] for one in rollouts)
    assert [metrics["rollouts/failed"] for metrics in ran.steps] == [0.0] * len(ran.steps)
    # A rollout of old weights, or a wrong slice, shows here at once: the learning rate is large.
    assert all(metrics["mismatch_kl"] < MISMATCH for metrics in ran.steps)


def assert_same(ran: Ran, expected: Ran) -> None:
    """The same tokens were sampled; the adapter differs by what servers lose when they batch in another order."""
    assert ran.sampled_ids() == expected.sampled_ids()
    torch.testing.assert_close(ran.adapter(), expected.adapter(), rtol=0, atol=1e-4)


def write_project(folder: Path, **sections) -> Path:
    """Rows without rewards, and a config with room for what the session's servers take."""
    write_rows(folder / "train.jsonl", [row(f"{i}+{i}=?", rewards=None) for i in range(12)])
    defaults = {
        "data": {"batch_size": BATCH, "group_size": GROUP, "val_file": None},
        "rollout": {"max_tokens": 48, "max_context_window": CONTEXT},
        "trainer": {"learning_rate": 0.05, "max_steps": STEPS, "save_step": 1},
    }
    for name, values in sections.items():
        defaults[name] = {**defaults.get(name, {}), **values}
    write_config(folder, **defaults)
    return folder


@dataclass(frozen=True)
class Elsewhere:
    """The session's servers behind proxies: what `rollout.url` and `teacher.url` name."""

    student: FaultProxy
    teacher: FaultProxy
    models: tuple[Path, Path]

    def project(self, folder: Path, **sections) -> Path:
        """A project whose student and teacher are these servers."""
        mine = {
            "model": {"path": str(self.models[0])},
            "teacher": {"path": str(self.models[1]), "url": self.teacher.url},
        }
        for name, values in mine.items():
            sections[name] = values | sections.get(name, {})
        sections["rollout"] = {"url": self.student.url} | sections.get("rollout", {})
        return write_project(folder, **sections)


def processes_with(text: str) -> list[int]:
    """Ids of running processes, other than this one, whose command line holds the text."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if folder.name.isdigit() and text in command and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


@contextmanager
def elsewhere(student: Served, teacher: Served):
    """Open a proxy in front of each server; they run in a thread, since a run has an event loop of its own."""
    proxies = [FaultProxy(student.socket), FaultProxy(teacher.socket, path=None)]
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait_for(work) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(timeout=30)

    try:
        for proxy in proxies:
            wait_for(proxy.open())
        yield Elsewhere(*proxies, (student.model_folder, teacher.model_folder))
    finally:
        for proxy in proxies:
            wait_for(proxy.end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

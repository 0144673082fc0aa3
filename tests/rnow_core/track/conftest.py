"""Made-up steps for the tracking tests, and Python run in a process of its own."""

import os
import random
import subprocess
import sys
import textwrap
from typing import get_args

import pytest

from rnow_core.types import Batch, Prompt, Rollout, ScoredRollout, StopReason, Trajectory, UpdateResult

COLUMNS = ("old", "advantage", "clipped", "entropy")


def make_rollout(rng, row, teacher="big", turns=1, rewards=True):
    prompt_length = rng.randint(1, 5)
    response = [
        (place == 0 or rng.random() < 0.7, turn)
        for turn in range(1, turns + 1)
        for place in range(rng.randint(2, 6))
    ]
    mask = [False] * prompt_length + [flag for flag, _turn in response]
    turn_numbers = [0] * prompt_length + [turn if flag else 0 for flag, turn in response]
    ids = tuple(rng.randrange(1000) for _ in mask)
    mu = tuple(-rng.random() * 3 if flag else 0.0 for flag in mask)
    reply = {"role": "assistant", "content": f"reply {row}"}
    rollout = Rollout(
        prompt=Prompt(
            row // 2, ({"role": "user", "content": "?"},), "train.jsonl", row // 2 + 1, dataset=row % 3
        ),
        sample=row % 2,
        messages=({"role": "user", "content": "?"}, reply),
        trajectory=Trajectory(ids, tuple(mask), mu, prompt_length),
        prompt_text="<user>?",
        stop_reason=rng.choice(get_args(StopReason)),
        policy="student-000001",
        seconds=rng.random(),
        turns_T=tuple(turn_numbers) if turns > 1 else (),
        agentic=turns > 1,
        tool_calls=rng.randint(0, 9) if turns > 1 else 0,
        tool_errors=rng.randint(0, 3) if turns > 1 else 0,
    )
    named = {"correct": rng.random(), **({"short": rng.random()} if row % 2 else {})} if rewards else {}
    return ScoredRollout(
        rollout,
        teacher=teacher,
        teacher_prompt_text="<system>hint<user>?" if teacher else None,
        teacher_logprobs_T=tuple(-rng.random() if i >= prompt_length else 0.0 for i in range(len(mask)))
        if teacher
        else None,
        rewards=named,
        reward=sum(named.values()) if rewards else None,
        task_advantage=rng.uniform(-1, 1),
    )


def make_batch(scored, untrained_rows=()):
    """Rows in `untrained_rows` have their whole mask off, as truncated replies may have."""
    flat = {"ids": [], "mask": [], "mu": [], "teacher": [], "task": []}
    lengths = []
    for row, item in enumerate(scored):
        trajectory = item.rollout.trajectory
        mask = [flag and row not in untrained_rows for flag in trajectory.mask_T]
        teacher = item.teacher_logprobs_T or (0.0,) * len(mask)
        flat["ids"] += trajectory.ids_T
        flat["mask"] += mask
        flat["mu"] += [value if flag else 0.0 for value, flag in zip(trajectory.mu_T, mask, strict=True)]
        flat["teacher"] += [value if flag else 0.0 for value, flag in zip(teacher, mask, strict=True)]
        flat["task"] += [item.task_advantage if flag else 0.0 for flag in mask]
        lengths.append(len(mask))
    return Batch(lengths=lengths, **flat)


def make_update(rng, batch):
    count = sum(batch.mask)
    columns = {name: [rng.uniform(-3, 0) for _ in range(count)] for name in COLUMNS}
    columns["clipped"] = [float(rng.random() < 0.2) for _ in range(count)]
    return UpdateResult(loss=0.25, grad_norm=1.5, learning_rate=1e-4, micro_batches=2, columns=columns)


@pytest.fixture
def make_step():
    """(scored, batch, update) made from a seed."""

    def make(seed=0, rollouts=8, untrained_rows=(), **options):
        rng = random.Random(seed)
        scored = [make_rollout(rng, row, **options) for row in range(rollouts)]
        batch = make_batch(scored, untrained_rows)
        return scored, batch, make_update(rng, batch)

    return make


@pytest.fixture
def names():
    """What is directly in a folder, hidden entries too."""
    return lambda folder: sorted(path.name for path in folder.iterdir())


@pytest.fixture
def python():
    """Start `code` as a real second process; the caller waits for it or kills it."""
    started = []

    def start(code, *arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()

"""Several ranks train as one: real processes that talk over gloo, and tiny models."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from learner_reference import make_batch
from rank_worker import make

from rnow_core.errors import RunFailed
from rnow_core.models.device import DeviceThread
from rnow_core.models.guardian import descendants
from rnow_core.models.rank_processes import start_ranks
from rnow_core.types import Batch

HERE = Path(__file__).parent
FOLLOWER = (sys.executable, str(HERE / "rank_worker.py"))


@pytest.fixture
def trainer(model_folder: Callable[..., str], tmp_path: Path):
    """`trainer(ranks, **setup)`: rank 0's learner and its ranks; everything is closed at the end."""
    device = DeviceThread(threads=1)
    opened = []

    def start(size: int, *, patience: float = 60.0, settings: dict | None = None, **setup):
        ranks = start_ranks(
            size, log_folder=tmp_path / "logs", command=FOLLOWER, patience=timedelta(seconds=patience)
        )
        opened.append(ranks)
        setup |= {"path": model_folder(), "settings": settings or {}}
        with ranks.leading("set up", setup):
            pass
        return make(ranks, device, setup), ranks

    yield start
    for ranks in opened:
        asyncio.run(ranks.close())
    device.close()
    assert_nothing_runs()


def assert_nothing_runs() -> None:
    left = [Path(f"/proc/{pid}/cmdline") for pid in descendants(os.getpid())]
    assert not any(b"rank_worker" in path.read_bytes() for path in left if path.exists())


def weights_of(learner) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in learner._lm.trainable_parameters().items()}


def assert_close(got, expected, tolerance: float = 1e-6) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, atol=tolerance, rtol=0)


def assert_same_results(got, expected) -> None:
    assert got.loss == pytest.approx(expected.loss, abs=1e-6)
    assert got.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert got.learning_rate == expected.learning_rate
    for name, column in expected.columns.items():
        assert got.columns[name] == pytest.approx(column, abs=1e-4), name


CASES = {
    "two ranks": (2, 11, {"tokens": 60}),
    "three ranks, two rows, discounted, two updates": (
        3,
        2,
        {"kl_discount": 0.9, "settings": {"learning_rate": 1e-3, "updates_per_batch": 2}},
    ),
    "all weights": (2, 5, {"rank": 0, "settings": {"learning_rate": 1e-3, "weight_decay": 0.1}}),
}


def steps(rows: int) -> list[Batch]:
    """Three batches, one that trains nothing, and one that trains in one row only."""
    batch = make_batch(rows=rows, seed=4)
    nothing = [False] * len(batch.ids)
    first = batch.lengths[0]
    return [
        *(make_batch(rows=rows, seed=seed) for seed in (1, 2, 3)),
        replace(batch, mask=nothing),
        replace(batch, mask=[*batch.mask[:first], *nothing[first:]]),
    ]


@pytest.mark.parametrize("case", CASES)
def test_ranks_train_as_one(case: str, trainer, tmp_path: Path) -> None:
    size, rows, setup = CASES[case]
    alone, _ = trainer(1, **setup)
    several, ranks = trainer(size, weights=str(tmp_path / "weights"), **setup)
    for step, batch in enumerate(steps(rows), 1):
        assert_same_results(several.update(batch, step), alone.update(batch, step))
    assert_close(weights_of(several), weights_of(alone))
    asyncio.run(ranks.close())
    for rank in range(1, size):
        follower = torch.load(tmp_path / f"weights-{rank}.pt")
        assert all(torch.equal(follower[name], w) for name, w in weights_of(several).items())


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(trainer, tmp_path: Path) -> None:
    learner, ranks = trainer(2, weights=str(tmp_path / "weights"))
    for step in (1, 2):
        learner.update(make_batch(seed=step), step)
    (tmp_path / "middle").mkdir()
    learner.save(tmp_path / "middle")
    learner.update(make_batch(seed=3), 3)
    expected = weights_of(learner)
    learner.load(tmp_path / "middle")
    assert learner.publish(None).name == "student-000002"
    assert any(not torch.equal(expected[name], w) for name, w in weights_of(learner).items())
    learner.update(make_batch(seed=3), 3)
    assert all(torch.equal(expected[name], w) for name, w in weights_of(learner).items())
    asyncio.run(ranks.close())
    follower = torch.load(tmp_path / "weights-1.pt")
    assert all(torch.equal(expected[name], w) for name, w in follower.items())


def test_a_killed_follower_stops_the_run_and_is_named(trainer, tmp_path: Path) -> None:
    learner, ranks = trainer(3)
    learner.update(make_batch(), 1)
    os.kill(ranks._channel.workers.pids[1], signal.SIGKILL)
    with pytest.raises(RunFailed, match=r"trainer rank 2 was ended by signal 9(?s:.*)trainer-rank-2\.log"):
        learner.update(make_batch(), 2)
    with pytest.raises(RunFailed, match="trainer rank 2"):
        learner.update(make_batch(), 3)
    asyncio.run(ranks.close())
    assert_nothing_runs()


def test_a_follower_that_hangs_is_given_up(trainer) -> None:
    learner, ranks = trainer(2, patience=5.0)
    learner.update(make_batch(), 1)
    os.kill(ranks._channel.workers.pids[0], signal.SIGSTOP)
    with pytest.raises(RunFailed, match="trainer rank 1 does not answer"):
        learner.update(make_batch(), 2)


def test_an_error_in_a_follower_reaches_rank_0(trainer) -> None:
    learner, _ = trainer(2, fail=1)
    before = weights_of(learner)
    with pytest.raises(RunFailed, match="trainer rank 1: TypeError"):
        learner.update(make_batch(), 1)
    assert_close(weights_of(learner), before, 0)


def test_an_error_in_rank_0_is_raised_as_it_is(trainer, tmp_path: Path) -> None:
    learner, _ = trainer(2)
    with pytest.raises(FileNotFoundError):
        learner.load(tmp_path / "nowhere")


def test_closing_in_the_middle_of_an_update_ends_the_followers(trainer) -> None:
    """As after a second Ctrl-C: the update is stuck with a follower that will not answer."""
    learner, ranks = trainer(2)
    os.kill(ranks._channel.workers.pids[0], signal.SIGSTOP)
    errors = []

    def update() -> None:
        try:
            learner.update(make_batch(), 1)
        except RunFailed as error:
            errors.append(error)

    thread = threading.Thread(target=update)
    thread.start()
    while not ranks._turn.locked():
        time.sleep(0.01)
    asyncio.run(ranks.close())
    thread.join(timeout=30)
    assert len(errors) == 1

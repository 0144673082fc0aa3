"""Starting trainer ranks on this machine, and joining those that torchrun started.

A follower gets torchrun's environment variables, so that it does not matter who started it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from rnow_core.errors import RunFailed, UsageError
from rnow_core.models.guarded import GuardedProcess, private_folder
from rnow_core.models.rank_channel import PATIENCE
from rnow_core.models.ranks import OneRank, Ranks, environment_variable
from rnow_core.models.vllm_log import last_lines, tail

ADDRESS = "127.0.0.1"
FOLLOWER = (sys.executable, "-P", "-m", "rnow_core.jobs.rank")
LOST_RANK_EXIT = 75
"""Exit code of a follower that ended because another rank was gone: it is not the one to look at."""
START_SECONDS = 300.0
# How long a process that was lost a moment ago may need until its end is known.
END_SECONDS = 5.0
HINT = "go on from the last checkpoint with: rnow run --resume"


@dataclass(frozen=True)
class _Worker:
    rank: int
    process: GuardedProcess
    log_file: Path
    log_start: int


class RankProcesses:
    """The followers that this process started."""

    def __init__(
        self, size: int, port: int, *, gpus: Sequence[int], log_folder: Path, command: Sequence[str]
    ) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        self._workers: list[_Worker] = []
        for rank in range(1, size):
            log_file = log_folder / f"trainer-rank-{rank}.log"
            log_start = log_file.stat().st_size if log_file.exists() else 0
            process = GuardedProcess(
                command,
                environment=rank_environment(os.environ, rank, size, port, gpus),
                log_file=log_file,
                folder=private_folder(),
            )
            self._workers.append(_Worker(rank, process, log_file, log_start))

    @property
    def pids(self) -> list[int | None]:
        """Process ids of ranks 1, 2, ..."""
        return [worker.process.pid for worker in self._workers]

    @property
    def all_alive(self) -> bool:
        """Whether every follower still runs."""
        return all(worker.process.alive for worker in self._workers)

    def describe_end(self, suspect: int | None) -> tuple[str, str] | None:
        """Message and hint for the follower that ended first, as far as that can be told, or for the suspect."""
        deadline = time.monotonic() + END_SECONDS
        while self.all_alive and time.monotonic() < deadline:
            time.sleep(0.05)
        ended = [worker for worker in self._workers if not worker.process.alive]
        # Those that only lost another rank come last.
        ended.sort(key=lambda worker: worker.process.exit_code == LOST_RANK_EXIT)
        found = ended or [worker for worker in self._workers if worker.rank == suspect]
        return (_describe(found[0]), HINT) if found else None

    async def stop(self, patience: float = 0.0) -> None:
        """End all; those that end by themselves have `patience` seconds for it."""
        deadline = time.monotonic() + patience
        while any(worker.process.alive for worker in self._workers) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await asyncio.gather(*(worker.process.stop() for worker in self._workers))


def start_ranks(
    size: int,
    *,
    gpus: Sequence[int] = (),
    log_folder: Path,
    command: Sequence[str] = FOLLOWER,
    patience: timedelta = PATIENCE,
) -> OneRank:
    """Rank 0's side: start the followers, or under torchrun join those that are there.

    Args:
        size: ranks, this one included.
        gpus: the GPU of each rank as this process numbers them, rank 0's first; empty on a CPU.
        log_folder: where a follower's output goes, trainer-rank-1.log and so on.
        command: what a follower runs.
        patience: how long a rank that hangs is waited for.

    Raises:
        RunFailed: a follower did not start, with the last lines of its log.
        UsageError: torchrun started another number of ranks.
    """
    if launched_by_torchrun():
        _require_count(size)
        return join_ranks(patience)
    if size == 1:
        return OneRank()
    store = _host_store(size, patience)
    workers = RankProcesses(size, store.port, gpus=gpus, log_folder=log_folder, command=command)
    try:
        _await_arrivals(store, size, workers)
        with environment_variable("GLOO_SOCKET_IFNAME", _loopback_name()):
            return Ranks(store, 0, size, workers=workers, patience=patience)
    except BaseException:
        asyncio.run(workers.stop())
        raise


def join_ranks(patience: timedelta = PATIENCE) -> Ranks:
    """Join the ranks that torchrun's environment variables describe."""
    store, rank, size = next(rendezvous("env://", timeout=patience))
    store.set(_arrival(rank), b"1")
    return Ranks(store, rank, size, patience=patience)


def launched_by_torchrun() -> bool:
    """Whether this process is one of several ranks that were started from outside, by torchrun or like it."""
    described = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    return described and int(os.environ["WORLD_SIZE"]) > 1


def is_follower() -> bool:
    """Whether this process is a rank above 0, which does what rank 0 says."""
    return launched_by_torchrun() and os.environ["RANK"] != "0"


def rank_environment(
    base: Mapping[str, str], rank: int, size: int, port: int, gpus: Sequence[int]
) -> dict[str, str]:
    """The variables of torchrun for a follower on this machine, which sees its own GPU only.

    `gpus` count among those that CUDA_VISIBLE_DEVICES in `base` leaves visible. UsageError when one is not.
    """
    environment = dict(base) | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": ADDRESS,
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": _loopback_name(),
    }
    if gpus:
        visible = [name.strip() for name in base.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        if visible and gpus[rank] >= len(visible):
            raise UsageError(
                f"trainer rank {rank} should use GPU {gpus[rank]}, but CUDA_VISIBLE_DEVICES="
                f"{','.join(visible)} shows {len(visible)}",
                f"change resources.trainer_gpus to numbers below {len(visible)}, or CUDA_VISIBLE_DEVICES",
            )
        environment["CUDA_VISIBLE_DEVICES"] = visible[gpus[rank]] if visible else str(gpus[rank])
    return environment


def rank_device(leader: str, gpus: Sequence[int]) -> str:
    """The device of this follower, where rank 0 computes on `leader`: `cpu`, or the GPU of its LOCAL_RANK.

    A follower that sees one GPU uses that; one that torchrun started counts in `gpus`, the trainer's on a node.
    """
    if leader == "cpu":
        return leader
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.device_count() <= 1:
        return "cuda:0"
    return f"cuda:{gpus[local] if local < len(gpus) else local}"


def _require_count(size: int) -> None:
    """A run that names its ranks wants as many of them in all, or on each node."""
    started = [int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE") if name in os.environ]
    if size not in (1, *started):
        raise UsageError(
            f"torchrun started {started[0]} ranks, {started[-1]} on this node, but this run trains on {size}",
            "give torchrun as many processes as resources.trainer_gpus has GPUs, or leave that key out",
        )


def _host_store(size: int, patience: timedelta) -> TCPStore:
    """A store on a free port of the loopback device, where other machines cannot reach it."""
    listener = socket.create_server((ADDRESS, 0), backlog=128)
    port = listener.getsockname()[1]
    return TCPStore(
        ADDRESS,
        port,
        size,
        is_master=True,
        timeout=patience,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def _await_arrivals(store: Store, size: int, workers: RankProcesses) -> None:
    deadline = time.monotonic() + START_SECONDS
    names = [_arrival(rank) for rank in range(1, size)]
    while not store.check(names):
        late = time.monotonic() > deadline
        if late or not workers.all_alive:
            missing = next((rank for rank in range(1, size) if not store.check([_arrival(rank)])), None)
            message, hint = workers.describe_end(missing) or (f"trainer rank {missing} did not start", HINT)
            raise RunFailed(message, hint)
        time.sleep(0.05)


def _arrival(rank: int) -> str:
    return f"rnow/arrived/{rank}"


def _loopback_name() -> str:
    """The device over which ranks of one machine talk: nobody else reaches them there."""
    return "lo" if sys.platform == "linux" else "lo0"


def _describe(worker: _Worker) -> str:
    code = worker.process.exit_code
    number = 0 if code is None else code - 128 if code > 128 else -code
    if code is None:
        end = "does not answer"
    elif number > 0:
        end = f"was ended by signal {number}"
    else:
        end = f"ended with exit code {code}"
    text = tail(worker.log_file, worker.log_start)
    lines = (
        f"; the last lines of {worker.log_file}:\n{last_lines(text)}"
        if text
        else f"; its log is {worker.log_file}"
    )
    return f"trainer rank {worker.rank} {end}{lines}"

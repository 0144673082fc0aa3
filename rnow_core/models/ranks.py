"""The ranks of data-parallel training: one that leads, and followers that compute their share of each batch.

Weights and gradients go through torch.distributed's collectives (gloo between CPUs, NCCL between GPUs), what is
said about them through a `Channel`. One that hangs is given up after `patience`.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.nn import Parameter

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.rank_channel import IDLE, PATIENCE, Channel, LostRank, Workers

BUCKET_FLOATS = 2**24
STOP = "stop"
GOODBYE_SECONDS = 5.0


class OneRank:
    """Training in this process alone: nobody to tell, nothing to add up. `Ranks` has the same methods."""

    rank = 0
    size = 1

    @contextmanager
    def leading(self, name: str, *arguments: object) -> Iterator[None]:
        """Rank 0: have the followers do this command, and take part in it inside. A follower: it was told already."""
        yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work of this rank alone; at the end, an error of any rank is raised on every one (RunFailed names it)."""
        yield

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        return [value]

    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """Replace each gradient by its sum over the ranks, the same bits on all of them.

        A rank without a gradient adds zero; a parameter for which no rank has one keeps none.
        """

    def equalise(self, parameters: Iterable[Parameter]) -> None:
        """Copy rank 0's values into the parameters of all."""

    @contextmanager
    def local_copy(self, folder: Path) -> Iterator[Path]:
        """The files of rank 0's `folder`, where this rank can read them while inside."""
        yield folder

    async def close(self) -> None:
        """End the followers. Closing twice is fine."""


class Ranks(OneRank):
    """One of several ranks. Made by `rank_processes.start_ranks` and `join_ranks`, once in a process.

    Args:
        store: where the ranks find one another.
        workers: the followers' processes, on the rank that started them.
        patience: how long a rank that hangs is waited for.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        *,
        workers: Workers | None = None,
        patience: timedelta = PATIENCE,
    ) -> None:
        self.rank, self.size = rank, size
        self._channel = Channel(rank, size, workers, patience)
        self._turn = threading.Lock()
        self._closed = False
        self._nccl: dist.ProcessGroup | None = None
        with self._channel.watched():
            dist.init_process_group(
                "gloo", store=PrefixStore("rnow", store), rank=rank, world_size=size, timeout=patience
            )

    @contextmanager
    def leading(self, name: str, *arguments: object) -> Iterator[None]:
        """See OneRank. One command at a time; LostRank when a follower was lost before."""
        if self.rank:
            yield
            return
        with self._turn:
            if self._channel.lost or self._closed:
                raise self._channel.failure(None, "the connection was closed")
            self._channel.tell((name, arguments))
            yield

    def next_command(self) -> tuple[str, tuple[Any, ...]]:
        """A follower: wait for rank 0's next command, hours if need be. LostRank when rank 0 is gone."""
        name, arguments = self._channel.receive(0, IDLE)
        return name, arguments

    @contextmanager
    def together(self) -> Iterator[None]:
        """See OneRank."""
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        try:
            reports = self.exchange(_report(error))
        except LostRank:
            if error is None:
                raise
        if error is not None:
            raise error
        for rank, report in enumerate(reports):
            if report is not None:
                raise RunFailed(f"trainer rank {rank}: {report[0]}", report[1])

    def exchange(self, value: Any) -> list[Any]:
        """See OneRank. Values are pickled and pass through rank 0: not for weights."""
        return self._channel.exchange(value)

    def sum_gradients(self, parameters: Iterable[Parameter]) -> None:
        """See OneRank. float32, in buckets of 64 MiB."""
        weights = list(parameters)
        used = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        with self._channel.watched():
            dist.all_reduce(used, op=dist.ReduceOp.MAX)
        for bucket in _buckets([weight for weight, flag in zip(weights, used.tolist(), strict=True) if flag]):
            grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in bucket]
            flat = grads[0].reshape(-1) if len(grads) == 1 else torch.cat([g.reshape(-1) for g in grads])
            with self._channel.watched():
                dist.all_reduce(flat, group=self._group(flat))
            for weight, part in zip(bucket, torch.split(flat, [w.numel() for w in bucket]), strict=True):
                weight.grad = part.view_as(weight)

    def equalise(self, parameters: Iterable[Parameter]) -> None:
        """See OneRank."""
        for weight in parameters:
            with self._channel.watched():
                dist.broadcast(weight.data, src=0, group=self._group(weight))

    @contextmanager
    def local_copy(self, folder: Path) -> Iterator[Path]:
        """See OneRank. A follower's copy is a temporary folder: nodes need not share a disk."""
        if self.rank == 0:
            self._channel.send_files(folder)
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="rnow-") as copy:
            self._channel.receive_files(Path(copy))
            yield Path(copy)

    async def close(self) -> None:
        """See OneRank. Processes that are in the middle of a command, as after a second Ctrl-C, are ended."""
        if self._closed:
            return
        self._closed = True
        workers = self._channel.workers
        # Without processes to end, the others have to finish their command before they hear of the end.
        idle = self._turn.acquire(blocking=workers is None)
        if idle:
            self._say_goodbye()
            self._turn.release()
        if workers is not None:
            await workers.stop(patience=GOODBYE_SECONDS if idle and not self._channel.lost else 0.0)
        with self._turn:
            dist.destroy_process_group()

    def _say_goodbye(self) -> None:
        if self.rank == 0 and not self._channel.lost:
            with suppress(LostRank):
                self._channel.tell((STOP, ()))

    def _group(self, tensor: Tensor) -> dist.ProcessGroup | None:
        """None is gloo. All ranks come here with their first tensor on a GPU at the same moment."""
        if not tensor.is_cuda:
            return None
        if self._nccl is None:
            # Otherwise a lost rank ends the whole process, instead of raising here after `patience`.
            with environment_variable("TORCH_NCCL_BLOCKING_WAIT", "1"), self._channel.watched():
                self._nccl = dist.new_group(backend="nccl", timeout=self._channel.patience)
        return self._nccl


@contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    """Set it while inside: what this process starts later, such as servers, must not inherit it."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _report(error: Exception | None) -> tuple[str, str] | None:
    """Message and hint, for the other ranks."""
    if error is None:
        return None
    if isinstance(error, RnowError):
        return error.message, error.hint
    return f"{type(error).__name__}: {error}", "its log has the whole error"


def _buckets(weights: Sequence[Parameter]) -> Iterator[list[Parameter]]:
    """Neighbours of together at most BUCKET_FLOATS numbers; a larger one stands alone."""
    bucket: list[Parameter] = []
    for weight in weights:
        if bucket and sum(w.numel() for w in bucket) + weight.numel() > BUCKET_FLOATS:
            yield bucket
            bucket = []
        bucket.append(weight)
    if bucket:
        yield bucket

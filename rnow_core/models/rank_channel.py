"""How trainer ranks talk to one another: torch.distributed's gloo, with errors that name the rank that is gone.

Values are pickled and sent from rank to rank instead of through a collective, because only then a failure says whom
it is about. A rank that is gone closes its connections, so whoever waits for it is told at once.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from rnow_core.errors import RunFailed

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for one another inside a step: the slowest share, or the loading of a model."""
IDLE = timedelta(days=365)
FILE_BLOCK_BYTES = 2**26


class LostRank(RunFailed):
    """Another rank is gone, or does not answer."""


class Workers(Protocol):
    """The followers' processes, on the rank that started them."""

    def describe_end(self, suspect: int | None) -> tuple[str, str] | None:
        """Message and hint when a follower has ended, or when `suspect` does not answer; else None."""
        ...

    async def stop(self, patience: float) -> None:
        """End them; those that are about to end by themselves have `patience` seconds for it."""
        ...


class Channel:
    """Values and files between this rank and the others. `lost` is True once a rank did not answer."""

    def __init__(self, rank: int, size: int, workers: Workers | None, patience: timedelta) -> None:
        self.rank, self.size = rank, size
        self.workers, self.patience = workers, patience
        self.lost = False

    def send(self, data: bytes, to: int) -> None:
        """Send bytes to one rank, which must `receive` them."""
        with self.watched(to):
            dist.send(torch.tensor([len(data)]), to)
            dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), to)

    def receive(self, source: int, patience: timedelta | None = None) -> Any:
        """Wait for the next value of a rank."""
        with self.watched(source):
            length = torch.zeros(1, dtype=torch.int64)
            _receive_into(length, source, patience or self.patience)
            data = torch.empty(int(length), dtype=torch.uint8)
            _receive_into(data, source, self.patience)
        return pickle.loads(data.numpy().tobytes())

    def tell(self, value: Any) -> None:
        """Rank 0: send a value to every other rank."""
        data = pickle.dumps(value)
        for rank in range(1, self.size):
            self.send(data, rank)

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank."""
        if self.rank:
            self.send(pickle.dumps(value), 0)
            values: list[Any] = self.receive(0)
            return values
        values = [value, *(self.receive(rank) for rank in range(1, self.size))]
        self.tell(values)
        return values

    def send_files(self, folder: Path) -> None:
        """Rank 0: send the files of a folder, block by block, to ranks that are in `receive_files`."""
        try:
            for path in sorted(path for path in folder.iterdir() if path.is_file()):
                with path.open("rb") as file:
                    while block := file.read(FILE_BLOCK_BYTES):
                        self.tell((path.name, block))
        finally:
            self.tell(None)

    def receive_files(self, folder: Path) -> None:
        """Write what rank 0 sends. All of it is received also when it cannot be written: ranks stay in step."""
        failed: OSError | None = None
        while (told := self.receive(0)) is not None:
            name, block = told
            try:
                with (folder / name).open("ab") as file:
                    file.write(block)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    @contextmanager
    def watched(self, other: int | None = None) -> Iterator[None]:
        """Communication with one rank, or with all: its errors become a LostRank that names who is gone."""
        try:
            yield
        except RuntimeError as error:
            self.lost = True
            raise self.failure(other, str(error).splitlines()[0]) from error

    def failure(self, other: int | None, reason: str) -> LostRank:
        """The error for a rank that is gone; what its process says of its end counts more than `reason`."""
        ended = self.workers.describe_end(other) if self.workers else None
        if ended is not None:
            return LostRank(*ended)
        who = "another trainer rank" if other is None else f"trainer rank {other}"
        hint = "read the log of that rank, then go on with: rnow run --resume"
        return LostRank(f"{who} does not answer: {reason}", hint)


def _receive_into(tensor: torch.Tensor, source: int, patience: timedelta) -> None:
    work = dist.irecv(tensor, source)
    assert work is not None
    work.wait(patience)

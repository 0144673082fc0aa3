"""What the rest of the engine knows of anything that holds weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from rnow_core.types import (
    AdapterVersion,
    Batch,
    Completion,
    SamplingParams,
    ScoreRequest,
    SignalScore,
    SignalWish,
    UpdateResult,
)


class Sampler(Protocol):
    """Samples from one policy; many requests are in flight at once."""

    async def sample(self, ids: Sequence[int], params: SamplingParams, key: int) -> Completion:
        """Sample one completion behind `ids`. `key` (64 bit) is the only source of randomness."""
        ...

    async def use(self, version: AdapterVersion) -> None:
        """Sample from this version from now on."""
        ...

    async def close(self) -> None:
        """Free what the sampler holds."""
        ...


class Teacher(Protocol):
    """Scores given ids. `unit` says in what portions it likes its work: a whole step at once where it shares the
    device with the sampler (large, reproducible batches), group by group where it runs beside it.
    """

    unit: Literal["group", "step"]

    async def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One list a request: log p of ids[start:], in order."""
        ...

    async def score_with_signal(
        self, requests: Sequence[ScoreRequest], wish: SignalWish
    ) -> list[SignalScore]:
        """The same, with what is wished for at every position of ids[start:]."""
        ...

    async def close(self) -> None:
        """Free what the teacher holds."""
        ...


class Learner(Protocol):
    """Owns the student's weights and the optimizer. Only `update` changes weights."""

    def update(self, batch: Batch, step: int) -> UpdateResult:
        """One optimizer step (or `updates_per_batch` of them) on the batch; `step` counts from 1."""
        ...

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Score with the current weights, as a teacher does."""
        ...

    def publish(self, folder: Path | None) -> AdapterVersion:
        """Make the current weights available to samplers: written under `folder`, or shared when None."""
        ...

    def save(self, folder: Path) -> None:
        """Write adapter (PEFT format) and optimizer into an existing empty folder."""
        ...

    def load(self, folder: Path, step: int | None = None) -> None:
        """Restore what `save` wrote; with `step` the run goes on behind that step instead of the saved one."""
        ...

"""The data order: which prompts a step trains on, as a function of the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rnow_core.data.seeds import hash64
from rnow_core.errors import RnowError
from rnow_core.types import Prompt


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(sorted(range(n), key=lambda i: (hash64("order", seed, epoch, i), i)))


def epoch_order(n: int, seed: int, epoch: int) -> list[int]:
    """A permutation of 0 .. n-1 for an epoch (from 0): the indices sorted by their hash."""
    return list(_order(n, seed, epoch))


def split(
    prompts: Sequence[Prompt], fraction: float, seed: int
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """(train, validation), each in file order; `fraction` (0 <= f < 1) goes to validation.

    A fraction above 0 gives at least one row to each side; raises RnowError when there are too few rows.
    """
    if not 0.0 <= fraction < 1.0:
        raise RnowError(f"data.val_split is {fraction}, expected a fraction from 0 to below 1")
    if fraction == 0.0:
        return tuple(prompts), ()
    if len(prompts) < 2:
        raise RnowError(
            f"data.val_split is {fraction} but there is {len(prompts)} row to split",
            "add rows, or remove data.val_split",
        )
    count = min(max(1, round(fraction * len(prompts))), len(prompts) - 1)
    shuffled = sorted(range(len(prompts)), key=lambda i: (hash64("split", seed, i), i))
    held_out = frozenset(shuffled[:count])
    train = tuple(prompt for i, prompt in enumerate(prompts) if i not in held_out)
    return train, tuple(prompts[i] for i in sorted(held_out))


@dataclass(frozen=True)
class PromptBatches:
    """Batches by step. An epoch's last batch holds what is left, and no batch mixes two epochs."""

    prompts: Sequence[Prompt]
    batch_size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.prompts:
            raise RnowError("there are no rows to train on", "add rows to data.train_file")
        if self.batch_size < 1:
            raise RnowError(f"data.batch_size is {self.batch_size}, expected at least 1")

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every prompt once."""
        return math.ceil(len(self.prompts) / self.batch_size)

    def total_steps(self, num_epochs: int, max_steps: int | None = None) -> int:
        """Steps of a run: `num_epochs` epochs, cut at `max_steps` where that is given."""
        steps = num_epochs * self.steps_per_epoch
        return steps if max_steps is None else min(steps, max_steps)

    def epoch(self, step: int) -> int:
        """The epoch (from 0) that a step (from 1) belongs to."""
        return (step - 1) // self.steps_per_epoch

    def batch(self, step: int) -> list[Prompt]:
        """The prompts of a step (from 1): at least one, at most `batch_size`."""
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        start = (step - 1) % self.steps_per_epoch * self.batch_size
        order = _order(len(self.prompts), self.seed, self.epoch(step))
        return [self.prompts[i] for i in order[start : start + self.batch_size]]

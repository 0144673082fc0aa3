"""Which rows of a batch each rank computes, and where its tokens stand in the whole. Pure and deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from rnow_core.types import Batch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's rows as a batch of their own; `trained_N` numbers its trained tokens among those of the whole."""

    batch: Batch
    trained_N: Tensor


def share_out(batch: Batch, size: int) -> list[Share]:
    """Cut a batch into one share a rank, balanced by tokens; a row is never split, and a share may be empty."""
    starts = _starts(batch.lengths)
    trained = [sum(batch.mask[start : start + n]) for start, n in zip(starts, batch.lengths, strict=True)]
    firsts = _starts(trained)
    costs = [n if count else 0 for n, count in zip(batch.lengths, trained, strict=True)]
    shares = []
    for rows in balance(costs, size):
        numbers = [number for row in rows for number in range(firsts[row], firsts[row] + trained[row])]
        part = batch if size == 1 else _take(batch, rows, starts)
        shares.append(Share(part, torch.tensor(numbers, dtype=torch.int64)))
    return shares


def balance(costs: Sequence[int], size: int) -> list[list[int]]:
    """Rows of each rank, ascending: the dearest first, each to the rank with the least so far (lowest on a tie)."""
    rows: list[list[int]] = [[] for _ in range(size)]
    load = [0] * size
    for row in sorted(range(len(costs)), key=lambda row: -costs[row]):
        rank = load.index(min(load))
        rows[rank].append(row)
        load[rank] += costs[row]
    return [sorted(mine) for mine in rows]


def _starts(lengths: Sequence[int]) -> list[int]:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts[:-1]


def _take(batch: Batch, rows: Sequence[int], starts: Sequence[int]) -> Batch:
    def column(values: Sequence[T]) -> list[T]:
        return [v for row in rows for v in values[starts[row] : starts[row] + batch.lengths[row]]]

    return Batch(
        ids=column(batch.ids),
        lengths=[batch.lengths[row] for row in rows],
        mask=column(batch.mask),
        mu=column(batch.mu),
        teacher=column(batch.teacher),
        task=column(batch.task),
        signals=[batch.signals[row] for row in rows] if batch.signals else (),
    )

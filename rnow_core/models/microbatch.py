"""Rows -> micro-batches by a budget of tokens. Pure and deterministic: sums follow the composition."""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_BUDGET = {"cpu": 2048, "cuda": 16384}
"""Tokens of a micro-batch when the config leaves it open. Fixed, not measured, so that a resumed run
cuts its batches in the same way. Large enough that per-call overhead is small, and small enough that the
activations of a model of a few billion parameters with gradient checkpointing (about tokens x layers x
hidden x 2 bytes, 4 GiB at 16384 x 32 x 4096) fit beside its weights.
"""


def token_budget(micro_batch_tokens: int | None, device_type: str) -> int:
    """The configured budget, or the fixed default for the kind of device."""
    return micro_batch_tokens or DEFAULT_BUDGET.get(device_type, DEFAULT_BUDGET["cpu"])


def packed_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into lists of row indices, each of at most `budget` tokens: first-fit decreasing.

    The longest row goes first, each into the first list that has room, so that lists hold their longest rows
    in front. Equal lengths keep their order. A row that is longer than the budget stands alone. Rows of length 0
    are left out.
    """
    batches: list[list[int]] = []
    rooms: list[int] = []
    for row in _longest_first(lengths):
        place = next((n for n, room in enumerate(rooms) if room >= lengths[row]), len(rooms))
        if place == len(rooms):
            batches.append([])
            rooms.append(budget)
        batches[place].append(row)
        rooms[place] -= lengths[row]
    return batches


def padded_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """The same for rows that are padded to the longest of their list: rows x longest <= budget in each.

    Longest first, so that running out of memory happens at the start.
    """
    batches: list[list[int]] = []
    room = 0
    for row in _longest_first(lengths):
        if room == 0:
            batches.append([])
            room = max(1, budget // lengths[row])
        batches[-1].append(row)
        room -= 1
    return batches


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])

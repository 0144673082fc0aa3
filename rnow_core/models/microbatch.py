"""Rows -> micro-batches by a budget of padded tokens. Pure and deterministic: sums follow the composition."""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_BUDGET = {"cpu": 2048, "cuda": 16384}
"""Padded tokens of a micro-batch when the config leaves it open. Fixed, not measured, so that a resumed run
cuts its batches in the same way. Large enough that per-call overhead is small, and small enough that the
activations of a model of a few billion parameters with gradient checkpointing (about tokens x layers x
hidden x 2 bytes, 4 GiB at 16384 x 32 x 4096) fit beside its weights.
"""


def token_budget(micro_batch_tokens: int | None, device_type: str) -> int:
    """The configured budget, or the fixed default for the kind of device."""
    return micro_batch_tokens or DEFAULT_BUDGET.get(device_type, DEFAULT_BUDGET["cpu"])


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into lists of row indices, longest rows first, rows x longest <= budget in each.

    Equal lengths keep their order. A row that is longer than the budget stands alone. Rows of length 0 are
    left out. Longest first, so that running out of memory happens at the start.
    """
    order = sorted((row for row, length in enumerate(lengths) if length), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    room = 0
    for row in order:
        if room == 0:
            batches.append([])
            room = max(1, budget // lengths[row])
        batches[-1].append(row)
        room -= 1
    return batches

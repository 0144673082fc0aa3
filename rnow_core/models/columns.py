"""Ragged rows as flat tensors, and their padded micro-batches. All index arithmetic, no model.

Suffixes: F flat tokens of all rows, R rows, B rows of a micro-batch, L padded length, N chosen tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnow_core.models.microbatch import micro_batches


@dataclass(frozen=True, slots=True)
class Slab:
    """One right-padded micro-batch, on the device: what goes through the model, and which tokens are read
    off it.

    `before_N` indexes the flattened B x L hidden states at the position *before* each chosen token, which
    is the one that predicts it. `chosen_N` numbers the chosen tokens among all chosen tokens of the rows.
    """

    ids_BL: Tensor
    before_N: Tensor
    chosen_N: Tensor


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen tokens of all rows, in flat order: where they are (flat), their row and position in it."""

    flat_N: Tensor
    row_N: Tensor
    position_N: Tensor


def choose(mask_F: Tensor, lengths_R: Tensor) -> Chosen:
    """Find the tokens where the mask is True. ValueError for a chosen first token: nothing predicts it."""
    flat_N = mask_F.nonzero()[:, 0]
    starts_R = lengths_R.cumsum(0) - lengths_R
    row_N = torch.repeat_interleave(torch.arange(len(lengths_R)), lengths_R)[flat_N]
    position_N = flat_N - starts_R[row_N]
    if (position_N == 0).any():
        row = int(row_N[position_N == 0][0])
        raise ValueError(
            f"row {row}: its first token is to be trained or scored, but no token comes before it"
        )
    return Chosen(flat_N, row_N, position_N)


def slabs(ids_F: Tensor, lengths_R: Tensor, chosen: Chosen, budget: int, device: torch.device) -> list[Slab]:
    """Pad the rows that have a chosen token into micro-batches, each row cut behind its last chosen token's
    predecessor: what comes later cannot change what is read off.
    """
    needed_R = torch.zeros_like(lengths_R).scatter_reduce_(0, chosen.row_N, chosen.position_N, "amax")
    starts_R = lengths_R.cumsum(0) - lengths_R
    counts_R = torch.bincount(chosen.row_N, minlength=len(lengths_R))
    firsts_R = counts_R.cumsum(0) - counts_R
    needed = needed_R.tolist()
    made = []
    for rows in micro_batches(needed, budget):
        rows_B = torch.tensor(rows)
        grid_L = torch.arange(needed[rows[0]])
        index_BL = starts_R[rows_B, None] + grid_L
        ids_BL = ids_F[index_BL.clamp_(max=len(ids_F) - 1)]
        ids_BL.masked_fill_(grid_L >= needed_R[rows_B, None], 0)
        counts_B = counts_R[rows_B]
        slot_N = torch.repeat_interleave(torch.arange(len(rows)), counts_B)
        within_N = torch.arange(len(slot_N)) - (counts_B.cumsum(0) - counts_B)[slot_N]
        chosen_N = firsts_R[rows_B][slot_N] + within_N
        before_N = slot_N * len(grid_L) + chosen.position_N[chosen_N] - 1
        made.append(Slab(*(t.to(device, non_blocking=True) for t in (ids_BL, before_N, chosen_N))))
    return made


def check_lengths(lengths: Sequence[int], total: int, what: str) -> None:
    """ValueError when the rows' lengths do not add up to the number of ids."""
    if sum(lengths) != total:
        raise ValueError(f"{what}: lengths add up to {sum(lengths)}, but there are {total} ids")

"""Ragged rows as flat tensors, and the micro-batches that go through the model. All index arithmetic, no model.

Suffixes: F flat tokens of all rows, R rows, P rows of one micro-batch, N chosen tokens; B x L the shape in which
a micro-batch goes through the model: 1 x tokens where its rows are packed, else rows x padded length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rnow_core.models.microbatch import packed_rows, padded_rows
from rnow_core.models.packed_attention import Segments


@dataclass(frozen=True, slots=True)
class Slab:
    """One micro-batch, on the device: what goes through the model, and which tokens are read off it.

    With `segments` it is one row of several conversations without padding; without, right-padded rows.
    `before_N` indexes the flattened B x L hidden states at the position *before* each chosen token, which
    is the one that predicts it. `chosen_N` numbers the chosen tokens among all chosen tokens of the rows.
    """

    ids_BL: Tensor
    before_N: Tensor
    chosen_N: Tensor
    segments: Segments | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen tokens of all rows, in flat order: where they are (flat), their row and position in it."""

    flat_N: Tensor
    row_N: Tensor
    position_N: Tensor


def choose(mask_F: Tensor, lengths_R: Tensor) -> Chosen:
    """Find the tokens where the mask is True. ValueError for a chosen first token: nothing predicts it."""
    flat_N = mask_F.nonzero()[:, 0]
    row_N, position_N = (column_F[flat_N] for column_F in ragged(lengths_R))
    if (position_N == 0).any():
        row = int(row_N[position_N == 0][0])
        raise ValueError(
            f"row {row}: its first token is to be trained or scored, but no token comes before it"
        )
    return Chosen(flat_N, row_N, position_N)


def slabs(
    ids_F: Tensor, lengths_R: Tensor, chosen: Chosen, budget: int, device: torch.device, *, packed: bool
) -> list[Slab]:
    """Put the rows that have a chosen token into micro-batches of at most `budget` tokens, packed or padded.

    Each row is cut behind its last chosen token's predecessor: what comes later cannot change what is read off.
    """
    needed_R = torch.zeros_like(lengths_R).scatter_reduce_(0, chosen.row_N, chosen.position_N, "amax")
    starts_R = lengths_R.cumsum(0) - lengths_R
    counts_R = torch.bincount(chosen.row_N, minlength=len(lengths_R))
    firsts_R = counts_R.cumsum(0) - counts_R
    cut, lay = (packed_rows, _pack) if packed else (padded_rows, _pad)
    made = []
    for rows in cut(needed_R.tolist(), budget):
        rows_P = torch.tensor(rows)
        ids_BL, offset_P = lay(ids_F, starts_R[rows_P], needed_R[rows_P])
        slot_N, within_N = ragged(counts_R[rows_P])
        chosen_N = firsts_R[rows_P][slot_N] + within_N
        before_N = offset_P[slot_N] + chosen.position_N[chosen_N] - 1
        segments = Segments.of(needed_R[rows_P].tolist(), device) if packed else None
        there = (tensor.to(device, non_blocking=True) for tensor in (ids_BL, before_N, chosen_N))
        ids_BL, before_N, chosen_N = there
        made.append(Slab(ids_BL, before_N, chosen_N, segments))
    return made


def ragged(counts_P: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of a ragged table in order: the row of each, and its number within the row."""
    row = torch.repeat_interleave(torch.arange(len(counts_P)), counts_P)
    return row, torch.arange(len(row)) - (counts_P.cumsum(0) - counts_P)[row]


def _pack(ids_F: Tensor, starts_P: Tensor, lengths_P: Tensor) -> tuple[Tensor, Tensor]:
    """Ids [1, T] of rows behind one another, and the place of each row's first id."""
    row_T, within_T = ragged(lengths_P)
    return ids_F[starts_P[row_T] + within_T][None], lengths_P.cumsum(0) - lengths_P


def _pad(ids_F: Tensor, starts_P: Tensor, lengths_P: Tensor) -> tuple[Tensor, Tensor]:
    """Ids [P, L] of right-padded rows, and the place of each row's first id in the flattened table."""
    grid_L = torch.arange(int(lengths_P.max()))
    index_PL = starts_P[:, None] + grid_L
    ids_PL = ids_F[index_PL.clamp_(max=len(ids_F) - 1)]
    ids_PL.masked_fill_(grid_L >= lengths_P[:, None], 0)
    return ids_PL, torch.arange(len(starts_P)) * len(grid_L)


def check_lengths(lengths: Sequence[int], total: int, what: str) -> None:
    """ValueError when the rows' lengths do not add up to the number of ids."""
    if sum(lengths) != total:
        raise ValueError(f"{what}: lengths add up to {sum(lengths)}, but there are {total} ids")

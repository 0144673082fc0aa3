"""The rows that are being decoded: what was asked, where each stands, what it has sampled so far.

Everything that a decode step needs is a tensor over the N active rows; Python touches single rows only when
some join or leave. Lengths are known on the host without asking the device: a row grows by one token a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from rnow_core.models.filters import Filters
from rnow_core.models.sampling import mix64, signed64
from rnow_core.types import SamplingParams

FIRST_TOKENS = 64
"""Columns for sampled tokens to begin with; doubled when a reply outgrows them."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One completion to sample. `limit`: the most tokens, max_tokens or less where the window ends sooner."""

    ids: tuple[int, ...]
    params: SamplingParams
    key: int
    limit: int

    @property
    def span(self) -> int:
        """The most positions it needs in the cache; the last token is sampled and never fed."""
        return len(self.ids) + self.limit - 1


@dataclass(frozen=True, slots=True)
class Columns:
    """What is fixed for some rows while nobody joins or leaves."""

    key_R: Tensor
    limit_R: Tensor
    stop_RK: Tensor
    filters: Filters | None

    @classmethod
    def of(cls, requests: Sequence[Request], vocab: int, device: torch.device) -> Columns:
        """Read the requests; stop ids are padded with -1, which is no id."""
        column = partial(torch.tensor, dtype=torch.int64, device=device)
        stops = [request.params.stop_ids for request in requests]
        most = max(map(len, stops), default=0)
        padded = [[*ids, *[-1] * (most - len(ids))] for ids in stops]
        return cls(
            key_R=column([signed64(mix64(request.key)) for request in requests]),
            limit_R=column([request.limit for request in requests]),
            stop_RK=column(padded).view(len(requests), most),
            filters=Filters.of([request.params for request in requests], vocab, device),
        )


class Rows:
    """The active rows, in slot order. `position_N`: where the last sampled token goes in the next forward."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self.requests: list[Request] = []
        self._vocab, self._device = vocab, device
        self._counts: list[int] = []
        self._age = 0
        self._reach = 0
        self._most = 0
        self._ids_NT = torch.zeros(0, FIRST_TOKENS, dtype=torch.int64, device=device)
        self._logp_NT = torch.zeros(0, FIRST_TOKENS, device=device)
        self.last_N = self._ids_NT[:, 0]
        self.count_N = self.position_N = self.last_N
        self.columns = Columns.of([], vocab, device)

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def reach(self) -> int:
        """Positions that the next decode step needs: the longest row with its last sampled token."""
        return self._reach + self._age

    def join(self, requests: Sequence[Request], ids_R: Tensor, logp_R: Tensor) -> None:
        """Append rows that have just sampled their first token."""
        self._sync_counts()
        self.requests += requests
        self._counts += [1] * len(requests)
        self._ids_NT = F.pad(self._ids_NT, (0, 0, 0, len(requests)))
        self._logp_NT = F.pad(self._logp_NT, (0, 0, 0, len(requests)))
        self._ids_NT[-len(requests) :, 0] = ids_R
        self._logp_NT[-len(requests) :, 0] = logp_R
        self.last_N = torch.cat([self.last_N, ids_R])
        self._rebuild()

    def record(self, ids_N: Tensor, logp_N: Tensor) -> None:
        """Take one more token of every row."""
        if self._most + self._age == self._ids_NT.shape[1]:
            self._ids_NT = F.pad(self._ids_NT, (0, self._ids_NT.shape[1]))
            self._logp_NT = F.pad(self._logp_NT, (0, self._logp_NT.shape[1]))
        self._ids_NT.scatter_(1, self.count_N[:, None], ids_N[:, None])
        self._logp_NT.scatter_(1, self.count_N[:, None], logp_N[:, None])
        self.last_N = ids_N
        self.count_N += 1
        self.position_N += 1
        self._age += 1
        if self.columns.filters is not None:
            self.columns.filters.see(ids_N)

    def finished(self) -> list[int]:
        """Rows whose last token is a stop id or the last one allowed. Waits for the device."""
        stopped_N = (self.last_N[:, None] == self.columns.stop_RK).any(-1)
        done: list[int] = (stopped_N | (self.count_N >= self.columns.limit_R)).nonzero().squeeze(1).tolist()
        return done

    def sampled(self, rows: Sequence[int]) -> list[tuple[list[int], list[float]]]:
        """Ids and logprobs of these rows so far."""
        self._sync_counts()
        index = torch.tensor(rows, device=self._device)
        most = max(self._counts[row] for row in rows)
        ids, logps = self._ids_NT[index, :most].tolist(), self._logp_NT[index, :most].tolist()
        counts = [self._counts[row] for row in rows]
        return [(i[:count], p[:count]) for i, p, count in zip(ids, logps, counts, strict=True)]

    def leave(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Remove rows; the last ones fill the holes. Returns (old slots, new slots) of those that moved."""
        self._sync_counts()
        gone = set(rows)
        left = len(self) - len(gone)
        movers = (row for row in range(left, len(self)) if row not in gone)
        order = [next(movers) if row in gone else row for row in range(left)]
        index = torch.tensor(order, dtype=torch.int64, device=self._device)
        self.requests = [self.requests[row] for row in order]
        self._counts = [self._counts[row] for row in order]
        self._ids_NT, self._logp_NT = self._ids_NT[index], self._logp_NT[index]
        self.last_N = self.last_N[index]
        self._rebuild()
        targets = [slot for slot, row in enumerate(order) if slot != row]
        return [order[slot] for slot in targets], targets

    def _sync_counts(self) -> None:
        self._counts = [count + self._age for count in self._counts]
        self._reach += self._age
        self._most += self._age
        self._age = 0

    def _rebuild(self) -> None:
        """Everything that follows from the requests and counts, after rows have joined or left."""
        reaches = [
            len(request.ids) + count for request, count in zip(self.requests, self._counts, strict=True)
        ]
        self._most, self._reach = max(self._counts, default=0), max(reaches, default=0)
        self.count_N = torch.tensor(self._counts, dtype=torch.int64, device=self._device)
        self.position_N = torch.tensor(reaches, dtype=torch.int64, device=self._device) - 1
        self.columns = Columns.of(self.requests, self._vocab, self._device)
        if self.columns.filters is not None:
            self.columns.filters.see_prompts([request.ids for request in self.requests])
            self.columns.filters.see_sampled(self._ids_NT, self.count_N)

"""What a local teacher says of given tokens beyond one logprob each: its likeliest ids, or its hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.columns import slabs
from rnow_core.models.device import memory_errors
from rnow_core.models.scoring import (
    MEMORY_HINT,
    TokenLogprobs,
    check_finite,
    check_request,
    choose_behind,
    hidden_before,
)
from rnow_core.models.signals import HiddenSignal, Signal, TopSignal
from rnow_core.types import ScoreRequest, SignalScore, SignalWish


class TopLogprobs(Protocol):
    """Hidden states and a head -> the k most likely ids below `rows` and the given one; never builds N x V."""

    def __call__(
        self,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        ids_N: Tensor,
        k: int,
        *,
        rows: int,
        bias_V: Tensor | None = None,
        softcap: float | None = None,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Ids [N, k + 1] and logprobs [N, k + 1] (NaN: the given id is one of the k), and those of the given ids."""
        ...


@torch.no_grad()
def score_with_signal(
    lm: CausalLM,
    requests: Sequence[ScoreRequest],
    wish: SignalWish,
    token_logprobs: TokenLogprobs,
    top_logprobs: TopLogprobs,
    budget: int,
) -> list[SignalScore]:
    """`scoring.score` with a signal of every position of ids[start:]; what is wished for waits in main memory.

    Errors are those of `scoring.score`.
    """
    for number, request in enumerate(requests):
        check_request(number, request)
    ids_F = torch.tensor(list(chain.from_iterable(request.ids for request in requests)), dtype=torch.int64)
    lengths_R = torch.tensor([len(request.ids) for request in requests], dtype=torch.int64)
    starts_R = torch.tensor([request.start for request in requests], dtype=torch.int64)
    lm.check_ids(max(ids_F.tolist(), default=0), "scoring")
    chosen = choose_behind(starts_R, lengths_R)
    ids_N = ids_F[chosen.flat_N].to(lm.device)
    found = _Tables(lm, wish, len(ids_N), token_logprobs, top_logprobs)
    with memory_errors("scoring", MEMORY_HINT):
        for slab in slabs(ids_F, lengths_R, chosen, budget, lm.device, packed=lm.packable):
            found.fill(slab.chosen_N, hidden_before(lm, slab), ids_N[slab.chosen_N])
    check_finite(found.logp_N, lm.name)
    places = torch.split(torch.arange(len(ids_N)), (lengths_R - starts_R).tolist())
    return [SignalScore(found.logp_N[rows].tolist(), found.signal.take(rows)) for rows in places]


class _Tables:
    """The answers of a step on the CPU, filled micro-batch by micro-batch."""

    def __init__(
        self,
        lm: CausalLM,
        wish: SignalWish,
        n: int,
        token_logprobs: TokenLogprobs,
        top_logprobs: TopLogprobs,
    ) -> None:
        self._lm, self._wish = lm, wish
        self._token_logprobs, self._top_logprobs = token_logprobs, top_logprobs
        self.logp_N = torch.empty(n)
        self.signal: Signal
        if wish.top is None:
            self.signal = HiddenSignal(torch.empty(n, lm.head.weight_VH.shape[1], dtype=lm.dtype))
        else:
            shape = n, wish.top + 1
            self.signal = TopSignal(torch.empty(shape, dtype=torch.int64), torch.empty(shape))

    def fill(self, chosen_N: Tensor, hidden_NH: Tensor, ids_N: Tensor) -> None:
        """Enter the tokens of one micro-batch."""
        head, rows_N = self._lm.head, chosen_N.cpu()
        if isinstance(self.signal, HiddenSignal):
            logp_N, _ = self._token_logprobs(
                hidden_NH, head.weight_VH, ids_N, bias_V=head.bias_V, softcap=head.softcap, scale=head.scale
            )
            self.signal.hidden_MH[rows_N] = hidden_NH.cpu()
        else:
            assert self._wish.top is not None
            ids_NS, logprobs_NS, logp_N = self._top_logprobs(
                hidden_NH,
                head.weight_VH,
                ids_N,
                self._wish.top,
                rows=self._wish.rows,
                bias_V=head.bias_V,
                softcap=head.softcap,
                scale=head.scale,
            )
            self.signal.ids_MS[rows_N] = ids_NS.cpu()
            self.signal.logprobs_MS[rows_N] = logprobs_NS.float().cpu()
        self.logp_N[rows_N] = logp_N.float().cpu()

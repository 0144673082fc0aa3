"""What a teacher says of trained tokens beyond one logprob each, and how a divergence from it joins the loss.

Suffixes: M tokens that the teacher scored, N trained tokens, S ids of a token (K likeliest and the sampled one).
The tensors of a step wait in main memory; a micro-batch's share of them goes to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rnow_core.models.output_head import OutputHead
from rnow_core.types import ScoreRequest

Values = tuple[Tensor, Tensor, Tensor]
"""Divergence, the student's logprob of the sampled id, and its entropy [N]."""

Rows = Sequence[int] | Tensor


class SignalLoss(Protocol):
    """A divergence and its weight in the loss, differentiable in the student's hidden states (and trained head)."""

    @property
    def weight(self) -> float:
        """Factor of the divergence."""
        ...

    def full(
        self, hidden_NH: Tensor, head: OutputHead, ids_N: Tensor, teacher_NH: Tensor, teacher_head: OutputHead
    ) -> Values:
        """From the teacher's hidden states and head."""
        ...

    def top(
        self, hidden_NH: Tensor, head: OutputHead, ids_N: Tensor, top_ids_NS: Tensor, top_logprobs_NS: Tensor
    ) -> Values:
        """From the teacher's logprobs of some ids a token; NaN is an entry that does not count."""
        ...


@dataclass
class SignalTerm:
    """How a learner uses the signals of a batch. `teacher_head` reads hidden states; None where there are none."""

    loss: SignalLoss
    teacher_head: OutputHead | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TopSignal:
    """Signal `topk`: ids [M, S] and the teacher's logprobs of them, the sampled id last (NaN there: it came before)."""

    ids_MS: Tensor
    logprobs_MS: Tensor

    def __len__(self) -> int:
        return len(self.ids_MS)

    def take(self, rows: Rows) -> TopSignal:
        """These tokens only, as a copy."""
        return TopSignal(*(table[_index(rows)] for table in (self.ids_MS, self.logprobs_MS)))

    def join(self, others: Sequence[TopSignal]) -> TopSignal:
        """The tokens of the others behind these."""
        each = [self, *others]
        return TopSignal(torch.cat([s.ids_MS for s in each]), torch.cat([s.logprobs_MS for s in each]))

    def spread(self, scored_N: Tensor, ids_N: Tensor) -> TopSignal:
        """One entry a trained token: where the teacher gave none, the sampled id alone, with probability 1."""
        ids_NS = ids_N[:, None].repeat(1, self.ids_MS.shape[1])
        logprobs_NS = torch.full(ids_NS.shape, torch.nan, dtype=self.logprobs_MS.dtype)
        logprobs_NS[:, -1] = 0.0
        ids_NS[scored_N], logprobs_NS[scored_N] = self.ids_MS, self.logprobs_MS
        return TopSignal(ids_NS, logprobs_NS)

    def compare(self, term: SignalTerm, hidden_NH: Tensor, head: OutputHead, ids_N: Tensor) -> Values:
        """The divergence of these tokens from the student's."""
        tables = (table.to(hidden_NH.device) for table in (self.ids_MS, self.logprobs_MS))
        return term.loss.top(hidden_NH, head, ids_N, *tables)


@dataclass(frozen=True, slots=True, eq=False)
class HiddenSignal:
    """Signal `full`: the teacher's hidden states [M, H_T] before the tokens, in its dtype; its head reads them."""

    hidden_MH: Tensor

    def __len__(self) -> int:
        return len(self.hidden_MH)

    def take(self, rows: Rows) -> HiddenSignal:
        """These tokens only, as a copy."""
        return HiddenSignal(self.hidden_MH[_index(rows)])

    def join(self, others: Sequence[HiddenSignal]) -> HiddenSignal:
        """The tokens of the others behind these."""
        return HiddenSignal(torch.cat([self.hidden_MH, *(other.hidden_MH for other in others)]))

    def spread(self, scored_N: Tensor, ids_N: Tensor) -> HiddenSignal:
        """One entry a trained token, zeros where the teacher gave none."""
        if len(self) == len(scored_N):
            return self
        hidden_NH = self.hidden_MH.new_zeros(len(scored_N), self.hidden_MH.shape[1])
        hidden_NH[scored_N] = self.hidden_MH
        return HiddenSignal(hidden_NH)

    def compare(self, term: SignalTerm, hidden_NH: Tensor, head: OutputHead, ids_N: Tensor) -> Values:
        """The divergence of these tokens from the student's."""
        assert term.teacher_head is not None, (
            "the learner has the teacher's head where it trains on hidden states"
        )
        teacher_NH = self.hidden_MH.to(hidden_NH.device)
        return term.loss.full(hidden_NH, head, ids_N, teacher_NH, term.teacher_head)


Signal = TopSignal | HiddenSignal


@dataclass(frozen=True, slots=True)
class SignalColumn:
    """One entry a trained token; `scored_N` (on the device) is False where the teacher gave none."""

    signal: Signal
    scored_N: Tensor

    def divergence(
        self, term: SignalTerm, chosen_N: Tensor, hidden_NH: Tensor, head: OutputHead, ids_N: Tensor
    ) -> Values:
        """Of the chosen tokens; the divergence is 0, without a gradient, where the teacher gave nothing."""
        part = self.signal.take(chosen_N.cpu())
        divergence_N, logp_N, entropy_N = part.compare(term, hidden_NH, head, ids_N)
        scored_N = self.scored_N[chosen_N]
        return torch.where(scored_N, divergence_N, 0.0), logp_N, entropy_N


def signal_column(
    signals: Sequence[Signal], teacher_N: Tensor | None, ids_N: Tensor, device: torch.device
) -> SignalColumn | None:
    """The signals of rows as a column of their trained tokens; None without any.

    `teacher_N` is NaN where the teacher gave a trained token nothing; the rows' signals have an entry for each other
    one, in order. Both and `ids_N` are on the CPU. ValueError when the numbers do not fit.
    """
    some = [signal for signal in signals if len(signal)]
    if not some or teacher_N is None:
        return None
    scored_N, count = ~teacher_N.isnan(), sum(map(len, some))
    if count != int(scored_N.sum()):
        raise ValueError(
            f"batch: signals for {count} tokens, expected {int(scored_N.sum())} (scored and trained)"
        )
    return SignalColumn(_joined(some).spread(scored_N, ids_N), scored_N.to(device))


def top_signal(
    ids_NK: NDArray[np.int64],
    logprobs_NK: NDArray[np.float32],
    sampled_N: NDArray[np.float32],
    request: ScoreRequest,
) -> TopSignal:
    """A server's K likeliest ids of each position, and the one that stands there with its logprob."""
    given_N = np.array(request.ids[request.start :], np.int64)
    known_N = (ids_NK == given_N[:, None]).any(-1)
    beside_N = np.where(known_N, np.float32(np.nan), sampled_N)
    return TopSignal(
        torch.from_numpy(np.concatenate([ids_NK, given_N[:, None]], 1)),
        torch.from_numpy(np.concatenate([logprobs_NK, beside_N[:, None]], 1)),
    )


def _joined(signals: Sequence[Signal]) -> Signal:
    first, *others = signals
    if isinstance(first, TopSignal):
        return first.join([other for other in others if isinstance(other, TopSignal)])
    return first.join([other for other in others if isinstance(other, HiddenSignal)])


def _index(rows: Rows) -> Tensor:
    return rows if isinstance(rows, Tensor) else torch.tensor(rows, dtype=torch.int64)

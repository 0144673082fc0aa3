"""One pass over a batch: forward, loss and backward of its micro-batches, over the step's denominator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.columns import Chosen, Slab, check_lengths, choose, slabs
from rnow_core.models.scoring import TokenLogprobs, hidden_before, read_off
from rnow_core.models.signals import HiddenSignal, SignalColumn, SignalTerm, TopSignal, signal_column
from rnow_core.types import Batch

COLUMNS = ("old", "advantage", "clipped", "entropy")
WITH_SIGNAL = (*COLUMNS, "divergence")


class Objective(Protocol):
    """Logprobs and what is known of each token -> summed loss and per-token columns."""

    def __call__(
        self,
        logp_N: Tensor,
        *,
        old_N: Tensor,
        mu_N: Tensor,
        teacher_N: Tensor | None,
        task_N: Tensor,
        row_N: Tensor,
        position_N: Tensor,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss summed over the tokens, and the columns `old`, `advantage` and `clipped` [N].

        The tokens of a row come together and in order, and a row is never split over calls.
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """What is known of each trained token [N], in batch order, on the device."""

    ids_N: Tensor
    mu_N: Tensor
    teacher_N: Tensor | None
    task_N: Tensor
    row_N: Tensor
    position_N: Tensor
    signal: SignalColumn | None


@dataclass(frozen=True, slots=True)
class PassResult:
    """Loss of the pass (a scalar on the device) and its per-token columns, named by COLUMNS or WITH_SIGNAL."""

    loss: Tensor
    columns_CN: Tensor

    @property
    def old_N(self) -> Tensor:
        """The logprobs that the pass took as those from before the update."""
        return self.columns_CN[COLUMNS.index("old")]


def prepare(batch: Batch, lm: CausalLM, budget: int) -> tuple[TokenColumns, list[Slab]]:
    """Put a rank's share of a batch on the device as columns of its trained tokens and micro-batches.

    A batch with an empty `teacher` column has no teacher; one without rows gives no micro-batches.
    """
    ids_F = torch.tensor(batch.ids, dtype=torch.int64)
    lm.check_ids(max(batch.ids, default=0), "training batch")
    lengths_R = torch.tensor(batch.lengths, dtype=torch.int64)
    chosen = choose(torch.tensor(batch.mask, dtype=torch.bool), lengths_R)
    columns = _token_columns(batch, ids_F, chosen, lm.device)
    return columns, slabs(ids_F, lengths_R, chosen, budget, lm.device, packed=lm.packable)


def _token_columns(batch: Batch, ids_F: Tensor, chosen: Chosen, device: torch.device) -> TokenColumns:
    def column(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[chosen.flat_N]

    ids_N, teacher_N = ids_F[chosen.flat_N], column(batch.teacher) if len(batch.teacher) else None
    signals = [signal for signal in batch.signals if isinstance(signal, TopSignal | HiddenSignal)]
    return TokenColumns(
        ids_N=ids_N.to(device),
        mu_N=column(batch.mu).to(device),
        teacher_N=None if teacher_N is None else teacher_N.to(device),
        task_N=column(batch.task).to(device),
        row_N=chosen.row_N.to(device),
        position_N=chosen.position_N.to(device),
        signal=signal_column(signals, teacher_N, ids_N, device),
    )


def check_columns(batch: Batch) -> None:
    """ValueError when the columns of a batch do not fit together."""
    total = len(batch.ids)
    check_lengths(batch.lengths, total, "batch")
    for name in ("mask", "mu", "teacher", "task"):
        got = len(getattr(batch, name))
        if got != total and not (name == "teacher" and got == 0):
            raise ValueError(f"batch: column {name} has {got} values, expected {total} (one for each id)")


def run_pass(
    lm: CausalLM,
    token_logprobs: TokenLogprobs,
    objective: Objective,
    tokens: TokenColumns,
    parts: list[Slab],
    old_N: Tensor | None,
    total: int,
    term: SignalTerm | None = None,
) -> PassResult:
    """Accumulate the gradient of (summed loss / `total`) over all micro-batches.

    `total` is the trained tokens of the whole step, of which these may be one rank's share: the shares' losses
    and gradients add up to the step's. Without `old_N` the pass's own logprobs are the old ones: no weight
    changes before the pass is over. With `term` the divergence from the teacher is part of the loss.
    """
    names = COLUMNS if term is None else WITH_SIGNAL
    columns_CN = torch.zeros(len(names), len(tokens.ids_N), device=lm.device)
    loss = torch.zeros((), device=lm.device)
    for part in parts:
        n = part.chosen_N
        divergence_N: Tensor | None = None
        if term is None or tokens.signal is None:
            logp_N, entropy_N = read_off(lm, token_logprobs, part, tokens.ids_N[n])
        else:
            divergence_N, logp_N, entropy_N = tokens.signal.divergence(
                term, n, hidden_before(lm, part), lm.head, tokens.ids_N[n]
            )
        loss_sum, columns = objective(
            logp_N,
            old_N=logp_N.detach() if old_N is None else old_N[n],
            mu_N=tokens.mu_N[n],
            teacher_N=None if tokens.teacher_N is None else tokens.teacher_N[n],
            task_N=tokens.task_N[n],
            row_N=tokens.row_N[n],
            position_N=tokens.position_N[n],
        )
        columns = {**columns, "entropy": entropy_N}
        if term is not None:
            loss_sum, columns["divergence"] = _with_divergence(loss_sum, divergence_N, term, tokens, n)
        torch.autograd.backward(loss_sum / total)
        loss += loss_sum.detach() / total
        columns_CN[:, n] = torch.stack([columns[name].detach().float() for name in names])
    return PassResult(loss, columns_CN)


def _with_divergence(
    loss_sum: Tensor, divergence_N: Tensor | None, term: SignalTerm, tokens: TokenColumns, chosen_N: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss with the weighted divergence, and its column: NaN on tokens that the teacher gave nothing."""
    if divergence_N is None or tokens.signal is None:
        return loss_sum, torch.full((len(chosen_N),), torch.nan, device=loss_sum.device)
    scored_N = tokens.signal.scored_N[chosen_N]
    column_N = divergence_N.detach().masked_fill(~scored_N, torch.nan)
    return loss_sum + term.loss.weight * divergence_N.sum(), column_N

"""One pass over a batch: forward, loss and backward of its micro-batches, over the step's denominator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.columns import Chosen, Slab, check_lengths, choose, slabs
from rnow_core.models.scoring import TokenLogprobs, read_off
from rnow_core.types import Batch

COLUMNS = ("old", "advantage", "clipped", "entropy")


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


@dataclass(frozen=True, slots=True)
class PassResult:
    """Loss of the pass (a scalar on the device) and its per-token columns [4, N], named by COLUMNS."""

    loss: Tensor
    columns_4N: Tensor

    @property
    def old_N(self) -> Tensor:
        """The logprobs that the pass took as those from before the update."""
        return self.columns_4N[COLUMNS.index("old")]


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
        return torch.tensor(values, dtype=torch.float32)[chosen.flat_N].to(device)

    return TokenColumns(
        ids_N=ids_F[chosen.flat_N].to(device),
        mu_N=column(batch.mu),
        teacher_N=column(batch.teacher) if len(batch.teacher) else None,
        task_N=column(batch.task),
        row_N=chosen.row_N.to(device),
        position_N=chosen.position_N.to(device),
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
) -> PassResult:
    """Accumulate the gradient of (summed loss / `total`) over all micro-batches.

    `total` is the trained tokens of the whole step, of which these may be one rank's share: the shares' losses
    and gradients add up to the step's. Without `old_N` the pass's own logprobs are the old ones: no weight
    changes before the pass is over.
    """
    columns_4N = torch.zeros(len(COLUMNS), len(tokens.ids_N), device=lm.device)
    loss = torch.zeros((), device=lm.device)
    for part in parts:
        n = part.chosen_N
        logp_N, entropy_N = read_off(lm, token_logprobs, part, tokens.ids_N[n])
        loss_sum, columns = objective(
            logp_N,
            old_N=logp_N.detach() if old_N is None else old_N[n],
            mu_N=tokens.mu_N[n],
            teacher_N=None if tokens.teacher_N is None else tokens.teacher_N[n],
            task_N=tokens.task_N[n],
            row_N=tokens.row_N[n],
            position_N=tokens.position_N[n],
        )
        torch.autograd.backward(loss_sum / total)
        loss += loss_sum.detach() / total
        columns = {**columns, "entropy": entropy_N}
        columns_4N[:, n] = torch.stack([columns[name].detach().float() for name in COLUMNS])
    return PassResult(loss, columns_4N)

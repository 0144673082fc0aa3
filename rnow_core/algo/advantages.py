"""Advantages of trained tokens: what the teacher says of each, clipped, and discounted over what follows.

Everything here is detached arithmetic on trained tokens only (N of a micro-batch): masked tokens were
selected away before, so that whatever stands there can reach nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def teacher_advantages(
    teacher_N: Tensor | None,
    old_N: Tensor,
    *,
    teacher_tau: float,
    student_tau: float,
    clip_min: float | None = None,
    clip_max: float | None = None,
) -> Tensor:
    """D_t = clip(teacher_tau * log p_teacher - student_tau * old, clip_min, clip_max), float32 of N.

    A tau of 0 leaves its model out: its logprobs are not read, and `teacher_N` may be None. Where `teacher_N` is NaN
    the teacher gave no value: there is nothing to compare, and D_t is 0.
    """
    advantage_N = torch.zeros_like(old_N)
    if teacher_tau != 0.0:
        if teacher_N is None:
            raise ValueError(f"teacher_tau is {teacher_tau}, but there are no teacher logprobs")
        advantage_N = advantage_N + teacher_tau * teacher_N
    if student_tau != 0.0:
        advantage_N = advantage_N - student_tau * old_N
    if clip_min is not None or clip_max is not None:
        advantage_N = advantage_N.clamp(min=clip_min, max=clip_max)
    if teacher_tau != 0.0 and teacher_N is not None:
        advantage_N = advantage_N.masked_fill(teacher_N.isnan(), 0.0)
    return advantage_N


def discount_later(advantage_N: Tensor, row_N: Tensor, position_N: Tensor, gamma: float) -> Tensor:
    """Each token's own advantage plus gamma^k times that of the token k positions later in its row, for every
    k > 0.

    Positions between trained tokens (tool results, glue) count 0 but use up a step. Tokens may come in any
    order; a (row, position) pair may come once. `gamma` is in (0, 1].

    Sums a linear recurrence by doubling: log2(N) passes instead of a loop over tokens.
    """
    if len(advantage_N) < 2:
        return advantage_N
    order_N = torch.argsort(row_N * (position_N.max() + 1) + position_N)
    row_N, position_N = row_N[order_N], position_N[order_N]
    sums_N = advantage_N[order_N]
    decay_N = torch.zeros_like(sums_N)
    decay_N[:-1] = (gamma ** (position_N[1:] - position_N[:-1]).to(sums_N.dtype)) * (row_N[1:] == row_N[:-1])
    reach = 1
    while reach < len(sums_N):
        later_N, later_decay_N = sums_N[reach:], decay_N[reach:]
        sums_N = torch.cat([sums_N[:-reach] + decay_N[:-reach] * later_N, sums_N[-reach:]])
        decay_N = torch.cat([decay_N[:-reach] * later_decay_N, torch.zeros_like(decay_N[-reach:])])
        reach *= 2
    return torch.empty_like(sums_N).scatter_(0, order_N, sums_N)

"""What `sft` minimises: the cross-entropy of given tokens."""

from __future__ import annotations

import torch
from torch import Tensor


class CrossEntropy:
    """-log p summed over the trained tokens; with the step's denominator the mean in nats."""

    def __call__(
        self,
        logp_N: Tensor,
        *,
        old_N: Tensor | None,
        mu_N: Tensor,
        teacher_N: Tensor | None,
        task_N: Tensor,
        row_N: Tensor,
        position_N: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss summed over N trained tokens (the caller divides by the step's trained tokens), and detached columns.

        `old_N` is passed on as the column `old`; None stands for this forward's logp. Every given token counts alike,
        so that `advantage` is 1 and nothing is clipped; the other columns of a batch have no meaning here.
        """
        old_N = logp_N.detach() if old_N is None else old_N.detach()
        columns = {"old": old_N, "advantage": torch.ones_like(old_N), "clipped": torch.zeros_like(old_N)}
        return -logp_N.sum(), columns

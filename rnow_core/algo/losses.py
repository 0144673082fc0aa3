"""The three policy losses, per trained token.

    w   = stop_gradient(min(exp(clamp(old - mu, -20, 20)), tis_cap))    corrects for the sampler's own numbers
    rho = exp(logp - old)                                               how far this update has moved already

Each loss takes N tokens and returns the loss of each and, as a boolean, whether its bound decided there:
ppo's clipped branch, or cispo's cap. The first update on a batch has rho = 1 and tis_cap <= cispo_cap, so
that the three losses have the same gradient and nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

LossFn = Literal["importance_sampling", "ppo", "cispo"]
TokenLoss = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

LOG_RATIO_BOUND = 20.0
"""exp of more than this says only that the numbers are broken; it must not become inf."""
PPO_CLIP = 0.2


def importance_weights(old_N: Tensor, mu_N: Tensor, tis_cap: float) -> Tensor:
    """w: truncated importance sampling from the sampler's logprobs to the trainer's, without gradient."""
    log_ratio_N = (old_N - mu_N).detach().clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return log_ratio_N.exp().clamp(max=tis_cap)


def importance_sampling(
    logp_N: Tensor, old_N: Tensor, w_N: Tensor, advantage_N: Tensor
) -> tuple[Tensor, Tensor]:
    """-w * rho * A."""
    loss_N = -w_N * torch.exp(logp_N - old_N) * advantage_N
    return loss_N, torch.zeros_like(logp_N, dtype=torch.bool)


def ppo(logp_N: Tensor, old_N: Tensor, w_N: Tensor, advantage_N: Tensor) -> tuple[Tensor, Tensor]:
    """-w * min(rho * A, clip(rho, 0.8, 1.2) * A)."""
    rho_N = torch.exp(logp_N - old_N)
    free_N = rho_N * advantage_N
    clipped_N = rho_N.clamp(1.0 - PPO_CLIP, 1.0 + PPO_CLIP) * advantage_N
    return -w_N * torch.minimum(free_N, clipped_N), (clipped_N < free_N).detach()


def cispo(
    logp_N: Tensor, old_N: Tensor, w_N: Tensor, advantage_N: Tensor, *, cap: float
) -> tuple[Tensor, Tensor]:
    """-stop_gradient(min(w * rho, cap)) * A * logp."""
    ratio_N = w_N * torch.exp(logp_N - old_N).detach()
    return -ratio_N.clamp(max=cap) * advantage_N * logp_N, ratio_N > cap


def token_loss(name: LossFn, cispo_cap: float) -> TokenLoss:
    """The loss of that name."""
    losses: dict[LossFn, TokenLoss] = {
        "importance_sampling": importance_sampling,
        "ppo": ppo,
        "cispo": partial(cispo, cap=cispo_cap),
    }
    return losses[name]

"""log p of given tokens under a model, without gradients: the forward that teacher and learner share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from rnow_core.errors import RnowError
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.columns import Chosen, Slab, choose, ragged, slabs
from rnow_core.models.device import memory_errors
from rnow_core.types import ScoreRequest

MEMORY_HINT = "lower trainer.micro_batch_tokens, or shorten rollout.max_tokens"


class TokenLogprobs(Protocol):
    """Hidden states and a head -> logprob of each id and entropy, both [N]; never builds N x V."""

    def __call__(
        self,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        ids_N: Tensor,
        *,
        bias_V: Tensor | None = None,
        softcap: float | None = None,
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Differentiable in the hidden states (and the weight where it trains)."""
        ...


def read_off(lm: CausalLM, token_logprobs: TokenLogprobs, slab: Slab, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """One forward pass: logprob and entropy [N] of the slab's chosen tokens, whose ids are `ids_N`."""
    hidden_BLH = lm.hidden(slab.ids_BL, segments=slab.segments)
    return through_head(lm, token_logprobs, hidden_BLH, slab.before_N, ids_N)


def through_head(
    lm: CausalLM, token_logprobs: TokenLogprobs, hidden_BLH: Tensor, before_N: Tensor, ids_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Logprob and entropy [N] of `ids_N`, each predicted by the hidden state at its place `before_N` in B * L."""
    head = lm.head
    return token_logprobs(
        hidden_BLH.flatten(0, 1).index_select(0, before_N),
        head.weight_VH,
        ids_N,
        bias_V=head.bias_V,
        softcap=head.softcap,
        scale=head.scale,
    )


def hidden_before(lm: CausalLM, slab: Slab) -> Tensor:
    """One forward pass: the hidden states [N, H] that predict the slab's chosen tokens."""
    return lm.hidden(slab.ids_BL, segments=slab.segments).flatten(0, 1).index_select(0, slab.before_N)


@torch.no_grad()
def score(
    lm: CausalLM, requests: Sequence[ScoreRequest], token_logprobs: TokenLogprobs, budget: int
) -> list[list[float]]:
    """Score log p(ids[t] | ids[:t]) for every t >= start of each request, in order.

    In micro-batches of at most `budget` tokens, packed where the model allows it. Raises RnowError for an id
    beyond the model's rows, RunFailed when memory runs out.
    """
    for number, request in enumerate(requests):
        check_request(number, request)
    if not any(request.start < len(request.ids) for request in requests):
        return [[] for _ in requests]
    ids_F = torch.tensor(list(chain.from_iterable(request.ids for request in requests)))
    lengths_R = torch.tensor([len(request.ids) for request in requests])
    lm.check_ids(int(ids_F.max()), "scoring")
    starts_R = torch.tensor([request.start for request in requests])
    chosen = choose_behind(starts_R, lengths_R)
    ids_N = ids_F[chosen.flat_N].to(lm.device)
    logp_N = torch.empty(len(ids_N), device=lm.device)
    with memory_errors("scoring", MEMORY_HINT):
        for slab in slabs(ids_F, lengths_R, chosen, budget, lm.device, packed=lm.packable):
            logp_N[slab.chosen_N] = read_off(lm, token_logprobs, slab, ids_N[slab.chosen_N])[0]
    check_finite(logp_N, lm.name)
    parts = torch.split(logp_N.cpu(), (lengths_R - starts_R).tolist())
    return [part.tolist() for part in parts]


def choose_behind(starts_R: Tensor, lengths_R: Tensor) -> Chosen:
    """The tokens from each row's start on."""
    row_F, within_F = ragged(lengths_R)
    return choose(within_F >= starts_R[row_F], lengths_R)


def check_request(number: int, request: ScoreRequest) -> None:
    """ValueError when a request asks for a token that nothing comes before, or that is not there."""
    if not 1 <= request.start <= len(request.ids):
        raise ValueError(
            f"score request {number}: start is {request.start}, expected 1 to {len(request.ids)} (its ids)"
        )


def check_finite(logp_N: Tensor, name: str) -> None:
    """RnowError when some logprobs of the model `name` are no finite numbers."""
    bad = int((~torch.isfinite(logp_N)).sum())
    if bad:
        raise RnowError(
            f"{name}: {bad} of {len(logp_N)} logprobs are not finite numbers",
            "the model's weights are broken, or its dtype is too narrow: try model.dtype: float32",
        )

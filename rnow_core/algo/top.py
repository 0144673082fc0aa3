"""The K most likely ids of every position straight from hidden states, without the N x V table of logits.

Suffixes: N positions, H hidden size, V vocabulary rows, C positions of one chunk, K most likely ids, S = K + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rnow_core.algo.head import check_shapes
from rnow_core.algo.projection import CHUNK_BYTES, Projection


@torch.no_grad()
def top_logprobs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    ids_N: Tensor,
    k: int,
    *,
    rows: int,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `k` most likely ids below `rows`, their logprobs over all rows of the head, and those of the given ids.

    Among equals the lower id counts. Returns ids [N, S] and logprobs [N, S], whose last column is the given id, with
    NaN where it is one of the k; and the logprob of the given id [N]. The other arguments are those of
    `head.token_logprobs`.

    Raises ValueError when shapes do not fit, an id is outside the head's rows, or k is more than `rows`.
    """
    check_shapes(hidden_NH, weight_VH, ids_N, bias_V)
    head = Projection(weight_VH, bias_V, softcap, scale, chunk_bytes)
    rows = min(rows, head.rows)
    if not 1 <= k <= rows:
        raise ValueError(f"k is {k}, expected 1 to {rows} (the rows that student and teacher share)")
    ids_NS = torch.empty(len(ids_N), k + 1, dtype=torch.int64, device=hidden_NH.device)
    logprobs_NS = torch.empty(len(ids_N), k + 1, dtype=head.dtype, device=hidden_NH.device)
    for part, (logits_CV,) in head.chunks(len(ids_N), 1):
        head.project(hidden_NH[part], logits_CV)
        given_C1 = ids_N[part, None]
        ids_NS[part, :k], ids_NS[part, k:] = _top(logits_CV[:, :rows], k), given_C1
        logprobs_NS[part] = logits_CV.gather(1, ids_NS[part]) - logits_CV.logsumexp(1, keepdim=True)
    logp_N = logprobs_NS[:, k].clone()
    logprobs_NS[:, k].masked_fill_((ids_NS[:, :k] == ids_N[:, None]).any(1), torch.nan)
    return ids_NS, logprobs_NS, logp_N


def _top(logits_CV: Tensor, k: int) -> Tensor:
    """Ids of the k largest, the lower one of equals. `torch.topk` leaves open which; only its values are sure."""
    values_CK, ids_CK = logits_CV.topk(k, dim=1)
    unsure_C = (logits_CV >= values_CK[:, -1:]).sum(1) > k
    if unsure_C.any():
        order = logits_CV[unsure_C].sort(dim=1, descending=True, stable=True).indices
        ids_CK[unsure_C] = order[:, :k]
    return ids_CK

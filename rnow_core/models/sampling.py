"""From logits to a sampled id: counter-based uniforms, inverse CDF, and the logprob mu of what was sampled.

Nothing here has a random state. A token's uniform is a hash of (request key, token index), so it does not
depend on which rows shared a batch, and a resumed run draws the same numbers. R rows, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rnow_core.models.filters import Filters

MASK64 = (1 << 64) - 1
GAMMA, MIX1, MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
BLOCK = 128
"""Entries of one block of the two-level CDF. Vocabularies are nearly always a multiple of it."""


def mix64(value: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014) on an unsigned 64-bit integer."""
    value &= MASK64
    value = ((value ^ (value >> 30)) * MIX1) & MASK64
    value = ((value ^ (value >> 27)) * MIX2) & MASK64
    return value ^ (value >> 31)


def signed64(value: int) -> int:
    """The same 64 bits as a signed integer, which is what an int64 tensor holds."""
    value &= MASK64
    return value - (1 << 64) if value >> 63 else value


def uniforms(key_R: Tensor, index_R: Tensor) -> Tensor:
    """float64 [R] in [0, 1): the splitmix64 stream of each key at each index. The same bits on every device.

    Keys are int64 and should be mixed (`mix64`), so that neighbouring keys do not give shifted streams.
    """
    value = key_R + (index_R + 1) * signed64(GAMMA)
    value = (value ^ _shift_right(value, 30)) * signed64(MIX1)
    value = (value ^ _shift_right(value, 27)) * signed64(MIX2)
    value = value ^ _shift_right(value, 31)
    return _shift_right(value, 11).double() * 2.0**-53


def _shift_right(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def sample(logits_RV: Tensor, uniform_R: Tensor, filters: Filters | None = None) -> tuple[Tensor, Tensor]:
    """Sampled ids [R] and their raw logprobs [R] (float32, temperature 1, whole vocabulary).

    Without filters the ids follow softmax(logits); with them the filtered distribution, while the logprob
    stays the raw one. Logits that are not finite give a logprob that is not finite.
    """
    if filters is not None:
        ids = _draw_filtered(logits_RV, uniform_R, filters)
        logp = logits_RV.gather(1, ids[:, None]).squeeze(1) - logits_RV.logsumexp(-1)
        return ids, logp
    shifted = logits_RV - logits_RV.amax(-1, keepdim=True)
    ids, total_R = draw(shifted.exp(), uniform_R)
    logp = shifted.gather(1, ids[:, None]).squeeze(1).double() - total_R.log()
    return ids, logp.float()


def _draw_filtered(logits_RV: Tensor, uniform_R: Tensor, filters: Filters) -> Tensor:
    filtered = filters.apply(logits_RV)
    ids, _ = draw((filtered - filtered.amax(-1, keepdim=True)).exp(), uniform_R)
    if filters.greedy_R is None:
        return ids
    return torch.where(filters.greedy_R, filtered.argmax(-1), ids)


def draw(weights_RV: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse CDF: ids [R] with P(id) = weight / total, and the totals [R] in float64. Weight 0: never drawn.

    Over a large vocabulary one float32 running sum swallows the tail (its steps near 1 are 6e-8, the size
    of many probabilities), so sums run in float64, over blocks first and inside the chosen block after.
    """
    rows, vocab = weights_RV.shape
    if vocab <= 4 * BLOCK:
        cumulative = _cumulative(weights_RV)
        total_R = cumulative.amax(-1)
        return _first_above(cumulative, uniform_R * total_R, total_R), total_R
    padded = F.pad(weights_RV, (0, -vocab % BLOCK)) if vocab % BLOCK else weights_RV
    blocks_RNB = padded.view(rows, -1, BLOCK)
    sums_RN = blocks_RNB.sum(-1)
    cumulative = _cumulative(sums_RN)
    total_R = cumulative.amax(-1)
    block_R = _first_above(cumulative, uniform_R * total_R, total_R)
    row_R = torch.arange(rows, device=weights_RV.device)
    before_R = cumulative[row_R, block_R] - sums_RN[row_R, block_R].double()
    inside = _cumulative(blocks_RNB[row_R, block_R])
    return block_R * BLOCK + _first_above(inside, uniform_R * total_R - before_R, inside.amax(-1)), total_R


def _cumulative(weights_RN: Tensor) -> Tensor:
    # entries of weight 0 keep 0 here, so that they are above no target and cannot be found
    return weights_RN.cumsum(-1, dtype=torch.float64).masked_fill_(weights_RN <= 0, 0.0)


def _first_above(cumulative_RN: Tensor, target_R: Tensor, total_R: Tensor) -> Tensor:
    # rounding may lift a target to its total, above which there is nothing
    below_total = torch.nextafter(total_R, torch.zeros_like(total_R))
    target_R = torch.minimum(target_R, below_total).clamp_min_(0.0)
    return (cumulative_RN > target_R[:, None]).int().argmax(-1)

"""Attention for one new token a row, without repeating keys and values for grouped queries.

transformers repeats keys and values to the number of query heads whenever there is a mask, which copies the
whole cache in every layer of every decode step. With one query position the heads of a group can stand as
several query positions over their one key head: the same sums, nothing copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "rnow_grouped_decode"


def grouped_decode(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Query [N, H, 1, D] over key, value [N, Hkv, L, D] -> [N, 1, H, Dv]; the mask must broadcast over heads.

    What is not plain decoding is left to transformers.
    """
    if (
        query.shape[2] != 1
        or position_bias is not None
        or (attention_mask is not None and attention_mask.shape[1] != 1)
    ):
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, position_bias=position_bias, **rest
        )
        return result
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size)
    output = F.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return output.reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, grouped_decode)


@contextmanager
def grouped_attention(config: Any) -> Iterator[None]:
    """Let a model decode with it inside the block. Only where it would compute `sdpa`; `eager` stays."""
    used = config._attn_implementation
    if used == "sdpa":
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = used

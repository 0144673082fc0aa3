"""Attention of rows that stand behind one and the same prefix, whose keys and values are there once.

Works wherever packed rows do: attention goes through transformers' interface, nothing else is carried from token to
token, and rotary frequencies depend on positions alone. Windows and softcaps come as arguments.

Suffixes: R rows, L tokens of each behind the prefix, P tokens of the prefix, S = P + L, H query heads, K key heads,
D size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.kv_cache import PromptCache
from rnow_core.models.packed_attention import Unpackable, attention_as, require_plain
from rnow_core.models.packing_probe import TOLERANCE_FLOAT32, TOLERANCE_HALF

NAME = "rnow_behind_prefix"

BLOCK = 512
"""Own tokens whose attention is computed at once: what comes behind them is left out, and masks stay small."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values [1, K, P, D] of each layer. At most `expanded` positions are laid out at once, whatever the
    number of rows, but always those of one row.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    expanded: int

    @property
    def length(self) -> int:
        """P."""
        return self.keys[0].shape[2]

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(held.numel() * held.element_size() for held in (*self.keys, *self.values))


def compute_prefix(lm: CausalLM, ids: tuple[int, ...], expanded: int, parent: Prefix | None = None) -> Prefix:
    """Forward `ids`, behind the tokens of `parent`, for their keys and values alone."""
    held = PromptCache()
    ids_1L = torch.tensor([ids], device=lm.device)
    if parent is None:
        lm.hidden(ids_1L, None, torch.arange(len(ids), device=lm.device)[None], held, use_cache=True)
        return Prefix(tuple(held.keys), tuple(held.values), expanded)
    hidden_behind(lm, ids_1L, parent, held)
    keys = (torch.cat(pair, 2) for pair in zip(parent.keys, held.keys, strict=True))
    values = (torch.cat(pair, 2) for pair in zip(parent.values, held.values, strict=True))
    return Prefix(tuple(keys), tuple(values), expanded)


def hidden_behind(lm: CausalLM, ids_RL: Tensor, prefix: Prefix, cache: PromptCache | None = None) -> Tensor:
    """Hidden states [R, L, H] of rows that each continue the prefix: `CausalLM.hidden` of both, cut behind the prefix.

    Padding on the right changes nothing in front of it. `cache` takes the rows' own keys and values.
    """
    decoder = lm.model.get_decoder()
    position_1L = torch.arange(prefix.length, prefix.length + ids_RL.shape[1], device=ids_RL.device)[None]
    with attention_as(decoder.config, NAME):
        output = decoder(
            input_ids=ids_RL,
            attention_mask=None,
            position_ids=position_1L,
            past_key_values=cache,
            use_cache=cache is not None,
            shared_prefix=prefix,
        )
    hidden: Tensor = output.last_hidden_state
    return hidden.to(lm.dtype)


def attention_behind(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    shared_prefix: Prefix | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Query [R, H, L, D] over the prefix and key, value [R, K, L, D] of the rows themselves -> [R, L, H, D], causal.

    The prefix is laid out once a call, for some rows; the rows take turns behind it. Raises Unpackable when the model
    asks for what is not known here.
    """
    require_plain(module, attention_mask, rest)
    if shared_prefix is None:
        raise Unpackable(f"{type(module).__name__}: no prefix")
    before, length = shared_prefix.length, query.shape[2]
    together = max(1, min(query.shape[0], shared_prefix.expanded // (before + length)))
    keys = _laid_out(shared_prefix.keys[module.layer_idx], key, together)
    values = _laid_out(shared_prefix.values[module.layer_idx], value, together)
    masks = [
        _mask(before, first, min(first + BLOCK, length), sliding_window, query)
        for first in range(0, length, BLOCK)
    ]
    outputs = []
    for queries, own_keys, own_values in zip(
        *(torch.split(x, together) for x in (query, key, value)), strict=True
    ):
        rows = len(queries)
        keys[:rows, :, before:] = own_keys
        values[:rows, :, before:] = own_values
        parts = [
            _attend(
                part,
                keys[:rows, :, : mask.shape[1]],
                values[:rows, :, : mask.shape[1]],
                mask,
                scaling,
                softcap,
            )
            for part, mask in zip(torch.split(queries, BLOCK, 2), masks, strict=True)
        ]
        outputs.append(torch.cat(parts, 2))
    return torch.cat(outputs).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention_behind)


def _laid_out(prefix: Tensor, own: Tensor, rows: int) -> Tensor:
    """The prefix for so many rows, with room for their own tokens behind it: [rows, K, S, D]."""
    _, heads, before, size = prefix.shape
    room = own.new_empty(rows, heads, before + own.shape[2], size)
    room[:, :, :before] = prefix
    return room


def _mask(before: int, first: int, end: int, window: int | None, like: Tensor) -> Tensor:
    """For own tokens `first` to `end`, up to the last of them: 0 where they look, -inf elsewhere [end - first, S]."""
    at_L1 = torch.arange(before + first, before + end, device=like.device)[:, None]
    column_S = torch.arange(before + end, device=like.device)
    blocked = column_S > at_L1
    if window is not None:
        blocked |= column_S <= at_L1 - window
    return torch.zeros(blocked.shape, dtype=like.dtype, device=like.device).masked_fill_(blocked, -torch.inf)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask_LS: Tensor, scaling: float | None, softcap: float | None
) -> Tensor:
    """[R, H, L, D] over [R, K, S, D] -> [R, H, L, D]."""
    groups = query.shape[1] // key.shape[1]
    grouped = groups > 1 and softcap is None and not query.is_cuda
    if groups > 1 and not grouped:
        # on a GPU the fast kernels with a mask want a key head for each query head
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_LS, scale=scaling, enable_gqa=grouped
        )
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap + mask_LS
    return scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


@torch.no_grad()
def shares_prefixes(lm: CausalLM) -> bool:
    """Whether rows behind a prefix come out as whole rows do: what the model declares, and a short trial.

    False for weights that all train, which compute in another dtype than they have.
    """
    if not lm.packable or (lm.peft is None and lm.trainable_parameters()):
        return False
    ids = tuple(range(1, 13)) if lm.vocab_rows > 13 else (0,) * 12
    ids_1L = torch.tensor([ids], device=lm.device)
    try:
        prefix = compute_prefix(lm, ids[2:7], 1, compute_prefix(lm, ids[:2], 1))
        got = hidden_behind(lm, ids_1L[:, 7:], prefix)
    except (Unpackable, TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        return False
    whole = lm.hidden(ids_1L)[:, 7:]
    distance = (got - whole).float().norm(dim=-1) / whole.float().norm(dim=-1)
    return bool((distance <= (TOLERANCE_HALF if lm.half_precision else TOLERANCE_FLOAT32)).all())

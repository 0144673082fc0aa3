"""Keys and values of the rows that are being decoded: one slot a row, every row from position 0.

A slot holds its row's tokens at 0 .. length-1 and stale entries behind them. Those are finite numbers under a
mask, so they count nothing. S slots, N active rows (the first N slots), C positions of capacity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache

from rnow_core.errors import RnowError

ALIGN = 16
"""Positions are reserved and attended in multiples of this: few distinct shapes, and aligned mask rows."""


def attention_windows(config: Any, name: str) -> dict[str, int | None]:
    """Attention layer types of a model and the window of each: None sees everything.

    Raises RnowError for what cannot be decoded here: linear, chunked or shared-key layers, other kernels.
    """
    hint = "use rollout.engine: vllm for this model"
    if config._attn_implementation not in ("sdpa", "eager"):
        got = config._attn_implementation
        raise RnowError(
            f"{name}: attention implementation {got!r} cannot sample, expected sdpa or eager", hint
        )
    if getattr(config, "num_kv_shared_layers", None):
        raise RnowError(f"{name}: layers that share keys and values are not supported", hint)
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or [_implied_type(config)]
    known: Mapping[str, int | None] = {"full_attention": None, "sliding_attention": window}
    unknown = sorted(set(types) - known.keys())
    if unknown:
        raise RnowError(f"{name}: layers of type {', '.join(unknown)} are not supported", hint)
    return {kind: known[kind] for kind in dict.fromkeys(types)}


def _implied_type(config: Any) -> str:
    """The type of every layer where the config names none (Mistral has a window and no list of types)."""
    if getattr(config, "sliding_window", None) is not None:
        return "sliding_attention"
    return "chunked_attention" if getattr(config, "attention_chunk_size", None) else "full_attention"


class PromptCache(Cache):  # type: ignore[misc]
    """Keeps the keys and values of one prefill, as they are: no second copy."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by every attention layer with its keys and values [P, Hkv, L, D]."""
        self.keys.append(keys)
        self.values.append(values)
        return keys, values


class SlotCache(Cache):  # type: ignore[misc]
    """Keys and values [S, Hkv, C, D] of every layer; layers may differ in heads, sizes and dtypes."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots = 0
        self.capacity = 0
        self._row_N = torch.empty(0, dtype=torch.int64)
        self._position_N = self._row_N
        self._width = 0

    def store(self, prompts: PromptCache, prompt_R: Tensor, row_R: Tensor) -> None:
        """Copy prompt `prompt_R[i]` of a prefill into slot `row_R[i]`; one prompt may fill many slots."""
        pairs = [*zip(prompts.keys, prompts.values, strict=True)]
        if not self.keys:
            self.keys = [self._empty(keys) for keys, _ in pairs]
            self.values = [self._empty(values) for _, values in pairs]
        length = prompts.keys[0].shape[2]
        for layer, (keys, values) in enumerate(pairs):
            self.keys[layer][row_R, :, :length] = keys[prompt_R]
            self.values[layer][row_R, :, :length] = values[prompt_R]

    def _empty(self, like: Tensor) -> Tensor:
        # zeros, because a mask cannot hide a NaN: 0 * NaN is NaN
        return like.new_zeros(self.slots, like.shape[1], self.capacity, like.shape[3])

    def reserve(self, slots: int, length: int) -> None:
        """Make room for this many slots and positions, keeping what is stored. Grows by a half at least."""
        if slots <= self.slots and length <= self.capacity:
            return
        if slots > self.slots:
            self.slots = max(slots, self.slots + self.slots // 2 if self.keys else 0)
        if length > self.capacity:
            grown = self.capacity + self.capacity // 2 if self.keys else 0
            self.capacity = -(-max(length, grown) // ALIGN) * ALIGN
        for layer in range(len(self.keys)):
            self.keys[layer] = self._grown(self.keys[layer])
            self.values[layer] = self._grown(self.values[layer])

    def _grown(self, held: Tensor) -> Tensor:
        slots, _, capacity, _ = held.shape
        return F.pad(held, (0, 0, 0, self.capacity - capacity, 0, 0, 0, self.slots - slots))

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of some slots onto others."""
        if not sources:
            return
        device = self.keys[0].device
        source, target = torch.tensor(sources, device=device), torch.tensor(targets, device=device)
        for held in (*self.keys, *self.values):
            held[target, :, :length] = held[source, :, :length]

    def begin(self, position_N: Tensor, length: int) -> int:
        """Before a decode step: the position of each row's new token, all below `length`.

        Returns how many positions attention will see, a multiple of ALIGN.
        """
        self.reserve(len(position_N), length)
        if len(self._row_N) != len(position_N):
            self._row_N = torch.arange(len(position_N), device=position_N.device)
        self._position_N = position_N
        self._width = -(-length // ALIGN) * ALIGN
        return self._width

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by every attention layer with [N, Hkv, 1, D]: write the new tokens, return views on all."""
        held_keys, held_values = self.keys[layer_idx], self.values[layer_idx]
        held_keys[self._row_N, :, self._position_N] = keys.squeeze(2)
        held_values[self._row_N, :, self._position_N] = values.squeeze(2)
        rows = len(self._row_N)
        return held_keys[:rows, :, : self._width], held_values[:rows, :, : self._width]


def decode_masks(
    windows: Mapping[str, int | None], position_N: Tensor, width: int, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """Additive masks [N, 1, 1, width] for one new token a row: 0 where it looks, -inf elsewhere.

    A plain tensor for a model with one type of layer, else one for each type, as the models take them.
    """
    column = torch.arange(width, device=position_N.device)
    hidden_NC = column > position_N[:, None]
    masks = {}
    for kind, window in windows.items():
        blocked_NC = hidden_NC if window is None else hidden_NC | (column <= position_N[:, None] - window)
        mask_NC = torch.zeros(blocked_NC.shape, dtype=dtype, device=column.device)
        masks[kind] = mask_NC.masked_fill_(blocked_NC, -torch.inf)[:, None, None]
    return masks if len(masks) > 1 else next(iter(masks.values()))

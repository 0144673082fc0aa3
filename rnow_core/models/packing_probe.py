"""Whether a model may see packed rows: what its classes declare, and a short trial.

Whatever carries something from token to token other than attention (recurrent and linear-attention layers,
convolutions), or computes attention in a way of its own, would mix the conversations of a row.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from rnow_core.models.packed_attention import Segments, Unpackable

TOLERANCE_FLOAT32 = 1e-3
TOLERANCE_HALF = 0.1
"""Allowed distance of a token's hidden state, relative to its length. A foreign conversation in a state or an
attention sum moves it by about its own length."""


class Hidden(Protocol):
    """`CausalLM.hidden`: ids [B, L] -> hidden states [B, L, H]."""

    def __call__(self, ids_BL: Tensor, *, segments: Segments | None = None) -> Tensor:
        """With segments: the one row is packed."""
        ...


def may_pack(model: Any) -> bool:
    """What transformers declares: attention goes through its interface with all that shapes it as arguments
    (as flash attention needs it), no state is kept between tokens, and rotary frequencies do not depend on the
    longest sequence in sight.
    """
    rotary = [str(getattr(module, "rope_type", "")) for module in model.modules()]
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and bool(getattr(model, "_supports_flash_attn", False))
        and not getattr(model, "_is_stateful", False)
        and not any("dynamic" in kind or "longrope" in kind for kind in rotary)
    )


@torch.no_grad()
def packs(hidden: Hidden, ids_1L: Tensor, *, exact: bool) -> bool:
    """Whether two short conversations in one row come out as they do alone. `exact`: the model is float32."""
    second_1L = ids_1L.flip(1)
    length = ids_1L.shape[1]
    alone = torch.cat([hidden(ids_1L), hidden(second_1L)], 1)
    row = torch.cat([ids_1L, second_1L], 1)
    try:
        together = hidden(row, segments=Segments.of([length, length], ids_1L.device))
    except (Unpackable, TypeError):  # TypeError: a layer that does not pass arguments on to attention
        return False
    distance = (together - alone).float().norm(dim=-1) / alone.float().norm(dim=-1)
    return bool((distance <= (TOLERANCE_FLOAT32 if exact else TOLERANCE_HALF)).all())

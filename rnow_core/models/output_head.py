"""The output head of a causal language model: hidden state -> logits, as data instead of as a module.

Losses and samplers take the head apart (chunks, trained positions only), so they need its weight and the few
operations that some architectures add behind it. `read_head` collects those; `prove_head` checks them against
the model itself, because an architecture with another operation would silently train on wrong logprobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rnow_core.errors import RnowError

PROBE_LENGTH = 8
TOLERANCE_FLOAT32 = 1e-4
TOLERANCE_HALF = 2e-2


@dataclass(frozen=True, slots=True)
class OutputHead:
    """logits = softcap * tanh(z / softcap) with z = scale * (hidden @ weight.T + bias), or z itself."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> float32 logits [..., V]. For few positions: it builds the whole row."""
        logits = _project(hidden, self.weight_VH)
        if self.bias_V is not None:
            logits = logits + self.bias_V
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def _project(hidden: Tensor, weight_VH: Tensor) -> Tensor:
    """Return hidden @ weight.T in float32; on a GPU half-precision products are not rounded on the way."""
    if not hidden.is_cuda or weight_VH.dtype == torch.float32:
        return F.linear(hidden, weight_VH).float()
    flat = torch.mm(hidden.flatten(0, -2), weight_VH.t(), out_dtype=torch.float32)
    return flat.view(*hidden.shape[:-1], -1)


def read_head(model: Any, name: str) -> OutputHead:
    """The head of a transformers model, from its output layer and its config.

    `logit_scale` (Cohere) and `lm_head_multiplier` (Falcon-H1) multiply, `logits_scaling` (Granite) divides,
    `final_logit_softcapping` (Gemma 2 and 3) bends. Raises RnowError when the output layer is not a
    plain linear layer.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, torch.nn.Linear):
        got = "none" if layer is None else type(layer).__name__
        raise RnowError(
            f"{name}: expected a plain linear output layer, got {got}",
            "use a causal language model, and leave lm_head out of model.target_modules",
        )
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    scale *= float(getattr(config, "lm_head_multiplier", None) or 1.0)
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return OutputHead(layer.weight, layer.bias, float(softcap) if softcap else None, scale)


def probe_ids(rows: int, device: torch.device) -> Tensor:
    """A short fixed sequence of ids [1, L] below `rows`, without touching the global random state."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(rows, (1, PROBE_LENGTH), generator=generator).to(device)


def prove_head(
    expected_BLV: Tensor, got_BLV: Tensor, dtype: torch.dtype, name: str, architecture: str
) -> None:
    """Raise RnowError when the head's logits are not the model's own, relative to the largest."""
    expected = expected_BLV.float()
    if not torch.isfinite(expected).all():
        raise RnowError(
            f"{name}: the model's logits are not finite numbers on a short probe",
            "its weights hold NaN or infinity, or overflow in this dtype: check the folder, or try another dtype",
        )
    gap = (expected - got_BLV.float()).abs().max().item()
    size = max(1.0, expected.abs().max().item())
    tolerance = TOLERANCE_FLOAT32 if dtype == torch.float32 else TOLERANCE_HALF
    if not gap <= tolerance * size:
        raise RnowError(
            f"{name}: the architecture {architecture} is not supported: its logits differ by {gap:.3g} "
            f"from scale * lm_head(hidden) with softcap (allowed {tolerance * size:.3g})",
            "use another model, or report the architecture so that its head can be added",
        )

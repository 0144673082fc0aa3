"""The projection from hidden states to logits, cut into chunks of tokens that share their buffers.

Suffixes: H hidden size, V vocabulary rows, C tokens of one chunk. With z the final logits:

    z = softcap * tanh(raw / softcap)  or raw,     raw = scale * (h W^T + b)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_BYTES = 128 * 2**20
"""Default bound on one chunk x V buffer."""


class Projection:
    """A head, detached, and the chunks that go through it.

    The projections run in the head's dtype (hidden states are cast to it); a half-precision head gives float32 logits
    on CUDA and rounded ones on CPU, where torch offers no wider output. `dtype` is that of the logits: float32, or
    float64 for a float64 head.
    """

    def __init__(
        self,
        weight_VH: Tensor,
        bias_V: Tensor | None = None,
        softcap: float | None = None,
        scale: float = 1.0,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.weight_VH = weight_VH.detach()
        self.bias_V = None if bias_V is None else bias_V.detach()
        self.softcap = softcap
        self.scale = scale
        self.dtype = torch.promote_types(weight_VH.dtype, torch.float32)
        self.chunk = max(1, chunk_bytes // (weight_VH.shape[0] * self.dtype.itemsize))

    @property
    def rows(self) -> int:
        """Vocabulary rows."""
        return self.weight_VH.shape[0]

    def buffers(self, tokens: int, count: int) -> Tensor:
        """`count` buffers [count, tokens, V] of the logits' dtype, uninitialised."""
        return torch.empty((count, tokens, self.rows), dtype=self.dtype, device=self.weight_VH.device)

    def chunks(self, n: int, count: int = 2) -> Iterator[tuple[slice, Tensor]]:
        """Cut n tokens into chunks that share `count` C x V buffers: fresh ones would cost page faults."""
        buffers = self.buffers(min(self.chunk, n), count)
        for part in parts(n, self.chunk):
            yield part, buffers[:, : part.stop - part.start]

    def project(self, hidden_CH: Tensor, logits_CV: Tensor) -> None:
        """Fill the buffer with the final logits of a chunk."""
        hidden_CH, weight_HV = hidden_CH.to(self.weight_VH.dtype), self.weight_VH.t()
        if hidden_CH.dtype == self.dtype:
            torch.mm(hidden_CH, weight_HV, out=logits_CV)
        elif hidden_CH.is_cuda:
            torch.mm(hidden_CH, weight_HV, out_dtype=self.dtype, out=logits_CV)
        else:
            logits_CV.copy_(torch.mm(hidden_CH, weight_HV))
        if self.bias_V is not None:
            logits_CV += self.bias_V
        if self.softcap is not None:
            logits_CV.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap)
        elif self.scale != 1.0:
            logits_CV *= self.scale

    def tanh_squared(self, logits_CV: Tensor) -> Tensor:
        """What `unbend` needs of a head with a softcap; overwrites the logits."""
        assert self.softcap is not None
        return logits_CV.div_(self.softcap).square_()


def unbend(gradient_CV: Tensor, tanh_squared_CV: Tensor) -> None:
    """Turn a gradient of the final logits into that of the scaled logits before the cap, in place."""
    gradient_CV.addcmul_(gradient_CV, tanh_squared_CV, value=-1.0)


def parts(n: int, size: int) -> Iterator[slice]:
    """Cut n things into runs of `size`; the last may be shorter."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))

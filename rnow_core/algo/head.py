"""Logprobs of given tokens straight from hidden states, without the N x V table of logits.

Suffixes: N trained tokens, H hidden size, V vocabulary rows, C tokens of one chunk.

With z = softcap(scale * (h W^T + b)), p = softmax(z) and y the given id,

    logp = z_y - logsumexp(z)        d logp / d h = scale * ((onehot(y) - p) * dz/draw) W

so one pass over a chunk of tokens has everything that backward needs in N x H numbers: the forward pass
stores d logp / d h and backward scales its rows by the incoming gradient. Only a trainable head needs the
logits again, for its own gradient.

Precision: the two projections run in the head's dtype (hidden states are cast to it); a half-precision head
gives float32 logits on CUDA and rounded ones on CPU, where torch offers no wider output. Softmax, logprobs
and entropy are float32, or float64 for a float64 head. The stored rows have the head's dtype: the product
that makes them is accumulated in float32 and rounded once, and with a bf16 head the gradient of the hidden
states is bf16 anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rnow_core.algo.projection import CHUNK_BYTES, Projection, unbend


def token_logprobs(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    ids_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """Natural-log probability of each id, and the entropy (nats) of the distribution that it comes from.

    `softcap` is the final-logit cap of Gemma 2 (cap * tanh(z / cap)), `scale` multiplies the raw logits
    (Cohere's logit_scale, 1 / Granite's logits_scaling). `chunk_bytes` bounds one chunk x V buffer; the chunk
    size follows from it and V alone. Gradients reach `hidden_NH`, and `weight_VH` and `bias_V` where they
    require them; the entropy has none. Returns two tensors of N, float32 (float64 for a float64 head).

    Raises ValueError when shapes do not fit or an id is outside the head's rows.
    """
    check_shapes(hidden_NH, weight_VH, ids_N, bias_V)
    head = Projection(weight_VH, bias_V, softcap, scale, chunk_bytes)
    with torch.autocast(hidden_NH.device.type, enabled=False):
        if needs_grad(hidden_NH, weight_VH, bias_V):
            logp_N, entropy_N = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
                hidden_NH, weight_VH, bias_V, ids_N, head
            )
            return logp_N, entropy_N
        return _forward(hidden_NH, ids_N, head, None)


def mean_logit(logits_CV: Tensor, p_CV: Tensor, *, keep: bool) -> Tensor:
    """Sum of p * z over the vocabulary, without a third buffer; only with `keep` the logits stay as they are."""
    if not keep:
        return logits_CV.mul_(p_CV).sum(1)
    return torch.bmm(p_CV[:, None, :], logits_CV[:, :, None])[:, 0, 0]


def _surprise_gradient(head: Projection, logits_CV: Tensor, p_CV: Tensor, ids_C: Tensor) -> Tensor:
    """d(-logp) / d(scaled logits before the cap), C x V. Overwrites both buffers.

    The id's own entry becomes p - 1 before anything is rounded: for a confident token that rest is all
    there is.
    """
    p_CV.scatter_add_(1, ids_C[:, None], p_CV.new_full((len(ids_C), 1), -1.0))
    if head.softcap is not None:
        unbend(p_CV, head.tanh_squared(logits_CV))
    return p_CV


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, ids_N: Tensor, head: Projection
    ) -> tuple[Tensor, Tensor]:
        rows_NH = torch.empty_like(hidden_NH, dtype=weight_VH.dtype) if ctx.needs_input_grad[0] else None
        logp_N, entropy_N = _forward(hidden_NH, ids_N, head, rows_NH)
        trainable = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.head, ctx.hidden_dtype = head, hidden_NH.dtype
        ctx.save_for_backward(rows_NH, *((hidden_NH, ids_N) if trainable else (None, None)))
        ctx.mark_non_differentiable(entropy_N)
        return logp_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:
        rows_NH, hidden_NH, ids_N = ctx.saved_tensors
        grad_hidden_NH, grad_weight_VH, grad_bias_V = None, None, None
        if rows_NH is not None:
            factor_N = (-ctx.head.scale * grad_N).to(rows_NH.dtype)
            grad_hidden_NH = (rows_NH * factor_N[:, None]).to(ctx.hidden_dtype)
        if hidden_NH is not None:
            with torch.autocast(hidden_NH.device.type, enabled=False):
                grad_weight_VH, grad_bias_V = _head_gradient(
                    hidden_NH,
                    ids_N,
                    grad_N,
                    ctx.head,
                    weight=ctx.needs_input_grad[1],
                    bias=ctx.needs_input_grad[2],
                )
        return grad_hidden_NH, grad_weight_VH, grad_bias_V, None, None


def _forward(
    hidden_NH: Tensor, ids_N: Tensor, head: Projection, rows_NH: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logprobs and entropies; fills `rows_NH` with d(-logp) / d h, up to the head's scale, when it is given."""
    logp_N = torch.empty(len(ids_N), dtype=head.dtype, device=hidden_NH.device)
    entropy_N = torch.empty_like(logp_N)
    for part, (logits_CV, p_CV) in head.chunks(len(ids_N)):
        head.project(hidden_NH[part], logits_CV)
        torch.softmax(logits_CV, dim=1, out=p_CV)
        top_C, log_top_C = logits_CV.amax(1), p_CV.amax(1).log()
        logp_N[part] = logits_CV.gather(1, ids_N[part, None])[:, 0] - top_C + log_top_C
        entropy_N[part] = (
            top_C - mean_logit(logits_CV, p_CV, keep=head.softcap is not None) - log_top_C
        ).clamp_(min=0.0)
        if rows_NH is not None:
            grad_CV = _surprise_gradient(head, logits_CV, p_CV, ids_N[part])
            torch.mm(grad_CV.to(rows_NH.dtype), head.weight_VH, out=rows_NH[part])
    return logp_N, entropy_N


def _head_gradient(
    hidden_NH: Tensor, ids_N: Tensor, grad_N: Tensor, head: Projection, *, weight: bool, bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the head's weight and bias, summed over chunks in float32 or wider."""
    shape = head.weight_VH.shape
    grad_weight_VH = torch.zeros(shape, dtype=head.dtype, device=hidden_NH.device)
    grad_bias_V = torch.zeros(shape[0], dtype=head.dtype, device=hidden_NH.device)
    for part, (logits_CV, p_CV) in head.chunks(len(ids_N)):
        head.project(hidden_NH[part], logits_CV)
        torch.softmax(logits_CV, dim=1, out=p_CV)
        grad_CV = _surprise_gradient(head, logits_CV, p_CV, ids_N[part])
        grad_CV.mul_((-head.scale * grad_N[part])[:, None])
        if weight:
            grad_weight_VH.addmm_(grad_CV.t(), hidden_NH[part].to(head.dtype))
        if bias:
            grad_bias_V += grad_CV.sum(0)
    dtype = head.weight_VH.dtype
    return grad_weight_VH.to(dtype) if weight else None, grad_bias_V.to(dtype) if bias else None


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is computed of any of them."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def check_shapes(hidden_NH: Tensor, weight_VH: Tensor, ids_N: Tensor, bias_V: Tensor | None) -> None:
    """ValueError when the shapes do not fit together, or an id is outside the head's rows."""
    rows, width = weight_VH.shape
    if hidden_NH.shape != (len(ids_N), width):
        expected = (len(ids_N), width)
        raise ValueError(
            f"hidden states have shape {tuple(hidden_NH.shape)}, expected {expected} (ids x head width)"
        )
    if bias_V is not None and bias_V.shape != (rows,):
        raise ValueError(f"the head's bias has shape {tuple(bias_V.shape)}, expected {(rows,)}")
    if len(ids_N) == 0:
        return
    low, high = (int(end) for end in torch.aminmax(ids_N))
    if low < 0 or high >= rows:
        raise ValueError(
            f"token ids span {low}..{high}, but the head has {rows} rows: valid ids are 0..{rows - 1}"
        )

"""Divergence between student and teacher at every token, straight from hidden states, without any N x V table.

Suffixes: N trained tokens, H hidden size, V vocabulary rows, C tokens of one chunk, S support (ids of a token).

The form of `head.token_logprobs`: a pass over a chunk of tokens has the student's logits and what the teacher says of
them at hand, so the forward pass stores d D / d h (N x H) and backward scales its rows; `events` has the derivative.
Only a trainable head needs the logits again. The sampled id's logprob and the entropy come out of the same pass.

The teacher is given in one of two ways:

- `FullTeacher`, by its hidden states and head. Each model is normalised over its own rows. Events are the ids that
  both have; the student's other ids, where it has more rows (padding), are the tail bucket.
- `TopTeacher`, by some ids of each token with their logprobs. All other ids of the student are the tail bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rnow_core.algo.events import Divergence
from rnow_core.algo.head import check_shapes, needs_grad
from rnow_core.algo.projection import Projection

CHUNK_BYTES = 32 * 2**20
GPU_CHUNK_BYTES = 256 * 2**20
"""Default bounds on one chunk x V buffer; two to seven of them exist at a time. On a CPU larger ones leave its cache,
on a GPU smaller ones leave it idle.
"""


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a chunk of tokens gives: divergence, logprob of the sampled id, entropy [C], and where they were asked for
    the derivatives [C, V] of the divergence and of -logp by the scaled logits before the cap.
    """

    divergence_C: Tensor
    logp_C: Tensor
    entropy_C: Tensor
    gradient_CV: Tensor | None = None
    surprise_CV: Tensor | None = None


class Comparison(Protocol):
    """A teacher beside a student. The buffers of a result are used again by the next chunk."""

    def __call__(self, part: slice, hidden_CH: Tensor, ids_C: Tensor, *, gradients: bool) -> ChunkResult:
        """The chunk's values, and with `gradients` the derivatives."""
        ...


class Teacher(Protocol):
    """What a teacher says of N tokens."""

    def beside(self, student: Projection, tokens: int, divergence: Divergence, *, policy: bool) -> Comparison:
        """Compare it with a student in chunks of at most `tokens`; with `policy` for both derivatives."""
        ...


def token_divergence(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    ids_N: Tensor,
    teacher: Teacher,
    divergence: Divergence,
    *,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    policy: bool = False,
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence (nats) at each token, logprob of its id, and entropy of the student there.

    The first three arguments, `bias_V`, `softcap`, `scale` and `chunk_bytes` are those of `head.token_logprobs`.
    Gradients of the divergence reach the student's tensors, and with `policy` those of the logprobs do too; the
    teacher has none. Returns three tensors of N, float32 (float64 for a float64 head).

    Raises ValueError when shapes do not fit or an id is outside the student's rows.
    """
    check_shapes(hidden_NH, weight_VH, ids_N, bias_V)
    if chunk_bytes is None:
        chunk_bytes = GPU_CHUNK_BYTES if weight_VH.is_cuda else CHUNK_BYTES
    student = Projection(weight_VH, bias_V, softcap, scale, chunk_bytes)
    work = _Work(student, teacher, divergence, policy)
    with torch.autocast(hidden_NH.device.type, enabled=False):
        if needs_grad(hidden_NH, weight_VH, bias_V):
            divergence_N, logp_N, entropy_N = _TokenDivergence.apply(  # type: ignore[no-untyped-call]
                hidden_NH, weight_VH, bias_V, ids_N, work
            )
            return divergence_N, logp_N, entropy_N
        return _forward(hidden_NH, ids_N, work, None, None)


@dataclass(frozen=True, slots=True)
class _Work:
    student: Projection
    teacher: Teacher
    divergence: Divergence
    policy: bool

    def comparison(self, n: int) -> Comparison:
        tokens = min(n, self.student.chunk)
        return self.teacher.beside(self.student, tokens, self.divergence, policy=self.policy)


class _TokenDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, ids_N: Tensor, work: _Work
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        rows_NH = torch.empty_like(hidden_NH, dtype=weight_VH.dtype) if wanted else None
        policy_NH = torch.empty_like(rows_NH) if rows_NH is not None and work.policy else None
        values = _forward(hidden_NH, ids_N, work, rows_NH, policy_NH)
        trainable = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.work, ctx.hidden_dtype = work, hidden_NH.dtype
        ctx.save_for_backward(rows_NH, policy_NH, *((hidden_NH, ids_N) if trainable else (None, None)))
        ctx.mark_non_differentiable(*(values[2:] if work.policy else values[1:]))
        return values

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_N: Tensor, grad_logp_N: Tensor, _entropy: Tensor
    ) -> tuple[Tensor | None, ...]:
        rows_NH, policy_NH, hidden_NH, ids_N = ctx.saved_tensors
        scale, grad_hidden_NH, grad_weight_VH, grad_bias_V = ctx.work.student.scale, None, None, None
        if rows_NH is not None:
            grad_hidden_NH = rows_NH * (scale * grad_N).to(rows_NH.dtype)[:, None]
            if policy_NH is not None:
                grad_hidden_NH.addcmul_(policy_NH, (-scale * grad_logp_N).to(rows_NH.dtype)[:, None])
            grad_hidden_NH = grad_hidden_NH.to(ctx.hidden_dtype)
        if hidden_NH is not None:
            with torch.autocast(hidden_NH.device.type, enabled=False):
                grad_weight_VH, grad_bias_V = _head_gradient(
                    hidden_NH, ids_N, grad_N, grad_logp_N, ctx.work, ctx.needs_input_grad[1:3]
                )
        return grad_hidden_NH, grad_weight_VH, grad_bias_V, None, None


def _forward(
    hidden_NH: Tensor, ids_N: Tensor, work: _Work, rows_NH: Tensor | None, policy_NH: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The values; fills the given tables with d D / d h and d(-logp) / d h, up to the head's scale."""
    student, n = work.student, len(ids_N)
    values_3N = torch.empty(3, n, dtype=student.dtype, device=hidden_NH.device)
    compare = work.comparison(n)
    for start in range(0, n, student.chunk):
        part = slice(start, min(start + student.chunk, n))
        found = compare(part, hidden_NH[part], ids_N[part], gradients=rows_NH is not None)
        for row_N, values_C in zip(
            values_3N, (found.divergence_C, found.logp_C, found.entropy_C), strict=True
        ):
            row_N[part] = values_C
        for table_NH, gradient_CV in ((rows_NH, found.gradient_CV), (policy_NH, found.surprise_CV)):
            if table_NH is not None and gradient_CV is not None:
                torch.mm(gradient_CV.to(table_NH.dtype), student.weight_VH, out=table_NH[part])
    divergence_N, logp_N, entropy_N = values_3N.unbind(0)
    return divergence_N.clone(), logp_N.clone(), entropy_N.clone()


def _head_gradient(
    hidden_NH: Tensor,
    ids_N: Tensor,
    grad_N: Tensor,
    grad_logp_N: Tensor,
    work: _Work,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the head's weight and bias, summed over chunks in float32 or wider."""
    student, n = work.student, len(ids_N)
    grad_weight_VH = torch.zeros(student.weight_VH.shape, dtype=student.dtype, device=hidden_NH.device)
    grad_bias_V = grad_weight_VH.new_zeros(student.rows)
    compare = work.comparison(n)
    for start in range(0, n, student.chunk):
        part = slice(start, min(start + student.chunk, n))
        found = compare(part, hidden_NH[part], ids_N[part], gradients=True)
        assert found.gradient_CV is not None
        gradient_CV = found.gradient_CV.mul_((student.scale * grad_N[part])[:, None])
        if found.surprise_CV is not None:
            gradient_CV.addcmul_(found.surprise_CV, (-student.scale * grad_logp_N[part])[:, None])
        if wanted[0]:
            grad_weight_VH.addmm_(gradient_CV.t(), hidden_NH[part].to(student.dtype))
        if wanted[1]:
            grad_bias_V += gradient_CV.sum(0)
    dtype = student.weight_VH.dtype
    return grad_weight_VH.to(dtype) if wanted[0] else None, grad_bias_V.to(dtype) if wanted[1] else None

"""A teacher that is given by its hidden states and its head: the divergence over the whole vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rnow_core.algo.divergence import ChunkResult
from rnow_core.algo.events import LEAST_TAIL, Divergence
from rnow_core.algo.projection import Projection, unbend


@dataclass(frozen=True)
class FullTeacher:
    """The teacher's hidden states [N, H_T] behind the tokens before the trained ones, and the head that reads them."""

    hidden_NH: Tensor
    head: Projection

    def beside(self, student: Projection, tokens: int, divergence: Divergence, *, policy: bool) -> _Full:
        """See `divergence.Teacher`."""
        if self.hidden_NH.shape[1] != self.head.weight_VH.shape[1]:
            raise ValueError(
                f"the teacher's hidden states have width {self.hidden_NH.shape[1]}, its head "
                f"{self.head.weight_VH.shape[1]}"
            )
        return _Full(self, student, tokens, divergence, policy)


class _Full:
    """Compares chunk by chunk in buffers of its own.

    Student: logits (then log probabilities), probabilities (then the gradient), the cap's slope, d(-logp). Teacher:
    logits (then log probabilities), probabilities, and a spare one for jsd.
    """

    def __init__(
        self, teacher: FullTeacher, student: Projection, tokens: int, divergence: Divergence, policy: bool
    ) -> None:
        self._teacher, self._student, self._divergence = teacher, student, divergence
        self._shared = min(student.rows, teacher.head.rows)
        self._policy, self._bent = policy, student.softcap is not None
        self._mine = student.buffers(tokens, 2 + self._policy + self._bent)
        self._theirs = teacher.head.buffers(tokens, 3 if divergence.kind == "jsd" else 2)

    def __call__(self, part: slice, hidden_CH: Tensor, ids_C: Tensor, *, gradients: bool) -> ChunkResult:
        """See `divergence.Comparison`."""
        c = len(ids_C)
        logits_CV, p_CV = self._mine[0, :c], self._mine[1, :c]
        lse_C = _project(self._student, hidden_CH, logits_CV, p_CV)
        logp_C = logits_CV.gather(1, ids_C[:, None])[:, 0] - lse_C
        mean_C = torch.bmm(p_CV[:, None, :], logits_CV[:, :, None])[:, 0, 0]
        entropy_C = (lse_C - mean_C).clamp_(min=0.0)
        surprise_CV, slope_CV = self._before(logits_CV, p_CV, ids_C) if gradients else (None, None)
        logits_CV -= lse_C[:, None]
        teacher, (u_CV, q_CV) = self._teacher, self._theirs[:2, :c]
        lse_C = _project(teacher.head, teacher.hidden_NH[part], u_CV, q_CV)
        u_CV -= lse_C[:, None]
        divergence_C = self._compare(logits_CV, p_CV, u_CV, q_CV, gradients=gradients)
        if not gradients:
            return ChunkResult(divergence_C, logp_C, entropy_C)
        if slope_CV is not None:
            unbend(p_CV, slope_CV)
        return ChunkResult(divergence_C, logp_C, entropy_C, p_CV, surprise_CV)

    def _before(self, logits_CV: Tensor, p_CV: Tensor, ids_C: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """d(-logp) and tanh^2 of the cap, each where it is needed, while logits and probabilities are still there."""
        surprise_CV, slope_CV = None, None
        if self._bent:
            slope_CV = self._student.tanh_squared(self._mine[2, : len(ids_C)].copy_(logits_CV))
        if self._policy:
            surprise_CV = self._mine[-1, : len(ids_C)].copy_(p_CV)
            surprise_CV.scatter_add_(1, ids_C[:, None], p_CV.new_full((len(ids_C), 1), -1.0))
            if slope_CV is not None:
                unbend(surprise_CV, slope_CV)
        return surprise_CV, slope_CV

    def _compare(
        self, log_p_CV: Tensor, p_CV: Tensor, log_q_CV: Tensor, q_CV: Tensor, *, gradients: bool
    ) -> Tensor:
        """The divergence [C]; with `gradients` p becomes its derivative by the final logits. Overwrites all.

        The sums over what student and teacher share are done in place: `Divergence.of_events` in C x V buffers.
        """
        kept = slice(0, self._shared)
        tail = self._tail(log_p_CV)
        mass_C = 1.0 - q_CV[:, self._shared :].sum(1)
        p, q, log_p, log_q = p_CV[:, kept], q_CV[:, kept], log_p_CV[:, kept], log_q_CV[:, kept]
        kind, beta = self._divergence.kind, self._divergence.beta
        if kind == "reverse":
            ratio = torch.sub(log_p, log_q, out=log_q)
            total_C = divergence_C = torch.mul(p, ratio, out=q).sum(1)
        elif kind == "forward":
            divergence_C = torch.sub(log_q, log_p, out=log_q).mul_(q).sum(1)
            total_C = -mass_C
        else:
            spare = self._theirs[2, : len(p), kept]
            torch.logaddexp(log_p.add_(math.log1p(-beta)), log_q.add_(math.log(beta)), out=spare)
            ratio = log_p.sub_(spare).sub_(math.log1p(-beta))
            of_teacher_C = log_q.sub_(spare).sub_(math.log(beta)).mul_(q).sum(1)
            total_C = torch.mul(p, ratio, out=spare).sum(1).mul_(1.0 - beta)
            divergence_C = beta * of_teacher_C + total_C
        if tail is not None:
            divergence_C, total_C = divergence_C + tail.term_C, total_C + tail.pull_C
        if not gradients:
            return divergence_C
        if kind == "forward":
            p.mul_(-total_C[:, None]).sub_(q)
        elif kind == "reverse":
            p.mul_(ratio.sub_(total_C[:, None]))
        else:
            p.mul_(ratio.mul_(1.0 - beta).sub_(total_C[:, None]))
        if tail is not None:
            pull_C = tail.pull_C - tail.log_mass_C.exp() * total_C
            p_CV[:, self._shared :] = tail.within_CR * pull_C[:, None]
        return divergence_C

    def _tail(self, log_p_CV: Tensor) -> _Tail | None:
        """The student's rows that the teacher does not have, which get LEAST_TAIL from it; None without such rows."""
        if self._shared == self._student.rows:
            return None
        beyond_CR = log_p_CV[:, self._shared :]
        log_mass_C = beyond_CR.logsumexp(1)
        within_CR = (beyond_CR - log_mass_C[:, None]).exp_()
        term_C, pull_C = self._divergence.of_events(
            log_mass_C, torch.full_like(log_mass_C, math.log(LEAST_TAIL))
        )
        return _Tail(log_mass_C, within_CR, term_C, pull_C)


@dataclass(frozen=True, slots=True)
class _Tail:
    """The tail bucket: its log probability, the share of each of its R ids, its term and its pull."""

    log_mass_C: Tensor
    within_CR: Tensor
    term_C: Tensor
    pull_C: Tensor


def _project(head: Projection, hidden_CH: Tensor, logits_CV: Tensor, p_CV: Tensor) -> Tensor:
    """Fill logits and their softmax; returns the logsumexp [C]."""
    head.project(hidden_CH, logits_CV)
    torch.softmax(logits_CV, dim=1, out=p_CV)
    return logits_CV.amax(1) - p_CV.amax(1).log()

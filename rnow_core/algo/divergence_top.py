"""A teacher that is given by a few ids of each token: the divergence over those ids and one tail bucket."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rnow_core.algo.divergence import ChunkResult
from rnow_core.algo.events import Divergence, log_tail
from rnow_core.algo.projection import Projection, unbend


@dataclass(frozen=True)
class TopTeacher:
    """Ids of each token and the teacher's logprobs of them, over its own vocabulary [N, S].

    Where a logprob is NaN the entry is no part of the support, and where an id is beyond the student's rows it counts
    as one that was not given. The sampled id must be among the others. No id may come twice.
    """

    ids_NS: Tensor
    logprobs_NS: Tensor

    def beside(self, student: Projection, tokens: int, divergence: Divergence, *, policy: bool) -> _Top:
        """See `divergence.Teacher`."""
        return _Top(self, student, tokens, divergence, policy)


class _Top:
    """Compares chunk by chunk in buffers of its own: the student's logits, its probabilities, d(-logp)."""

    def __init__(
        self, teacher: TopTeacher, student: Projection, tokens: int, divergence: Divergence, policy: bool
    ) -> None:
        self._teacher, self._student, self._divergence = teacher, student, divergence
        self._policy = policy
        self._buffers = student.buffers(tokens, 2 + policy)

    def __call__(self, part: slice, hidden_CH: Tensor, ids_C: Tensor, *, gradients: bool) -> ChunkResult:
        """See `divergence.Comparison`."""
        logits_CV, rest_CV = self._buffers[:2, : len(ids_C)]
        self._student.project(hidden_CH, logits_CV)
        ids_CS, log_b_CS = self._support(part, ids_C)
        given_CS = ~log_b_CS.isnan()
        z_CS = logits_CV.gather(1, ids_CS)
        tail_C = _spread(logits_CV, ids_CS, rest_CV)
        logits_CV.scatter_(1, ids_CS, z_CS)
        lse_C = torch.logaddexp(z_CS.masked_fill(~given_CS, -torch.inf).logsumexp(1), tail_C)
        # column S is the tail bucket; where an entry is not given the event is absent
        log_a_CE = torch.cat([z_CS.masked_fill(~given_CS, -torch.inf), tail_C[:, None]], 1) - lse_C[:, None]
        log_b_CS = log_b_CS.to(z_CS.dtype).masked_fill(~given_CS, -torch.inf)
        log_b_CE = torch.cat([log_b_CS, log_tail(log_b_CS.exp().sum(1, keepdim=True))], 1)
        term_CE, pull_CE = self._divergence.of_events(log_a_CE, log_b_CE)
        a_CE = log_a_CE.exp()
        logp_C = logits_CV.gather(1, ids_C[:, None])[:, 0] - lse_C
        of_rest_C = torch.bmm(rest_CV[:, None, :], logits_CV[:, :, None])[:, 0, 0]
        mean_C = (a_CE[:, :-1] * z_CS).sum(1) + a_CE[:, -1] * of_rest_C
        entropy_C = (lse_C - mean_C).clamp_(min=0.0)
        values = term_CE.sum(1), logp_C, entropy_C
        if not gradients:
            return ChunkResult(*values)
        surprise_CV = self._surprise(rest_CV, ids_CS, a_CE, ids_C) if self._policy else None
        event_CE = pull_CE - a_CE * pull_CE.sum(1, keepdim=True)
        gradient_CV = rest_CV.mul_(event_CE[:, -1:]).scatter_add_(1, ids_CS, event_CE[:, :-1])
        if self._student.softcap is not None:
            slope_CV = self._student.tanh_squared(logits_CV)
            for each_CV in (gradient_CV, surprise_CV):
                if each_CV is not None:
                    unbend(each_CV, slope_CV)
        return ChunkResult(*values, gradient_CV, surprise_CV)

    def _support(self, part: slice, ids_C: Tensor) -> tuple[Tensor, Tensor]:
        """Ids within the student's rows and logprobs; an entry that does not count has NaN and the sampled id."""
        ids_CS, logprobs_CS = self._teacher.ids_NS[part], self._teacher.logprobs_NS[part]
        logprobs_CS = logprobs_CS.masked_fill(ids_CS >= self._student.rows, torch.nan)
        return torch.where(logprobs_CS.isnan(), ids_C[:, None], ids_CS), logprobs_CS

    def _surprise(self, rest_CV: Tensor, ids_CS: Tensor, a_CE: Tensor, ids_C: Tensor) -> Tensor:
        """d(-logp) by the final logits: all probabilities, less 1 at the sampled id."""
        surprise_CV = torch.mul(rest_CV, a_CE[:, -1:], out=self._buffers[2, : len(ids_C)])
        surprise_CV.scatter_add_(1, ids_CS, a_CE[:, :-1])
        return surprise_CV.scatter_add_(1, ids_C[:, None], surprise_CV.new_full((len(ids_C), 1), -1.0))


def _spread(logits_CV: Tensor, ids_CS: Tensor, rest_CV: Tensor) -> Tensor:
    """Fill `rest` with the softmax over all ids but the given ones (those 0); returns their logsumexp [C].

    That is -inf where no id is left. The logits of the given ids become -inf.
    """
    logits_CV.scatter_(1, ids_CS, -torch.inf)
    top_C = logits_CV.amax(1)
    safe_C = top_C.masked_fill(top_C.isneginf(), 0.0)
    torch.sub(logits_CV, safe_C[:, None], out=rest_CV).exp_()
    sum_C = rest_CV.sum(1)
    rest_CV.div_(sum_C.masked_fill(sum_C == 0.0, 1.0)[:, None])
    return safe_C + sum_C.log()

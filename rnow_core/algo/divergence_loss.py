"""`algorithm.signal: topk | full`: a divergence as a loss of its own, beside the policy loss of the rewards.

    L_t = policy loss of adv_tau * A_task + weight * divergence_t

It is differentiated through the student's logits, so it is no advantage: no clip, no discount and no ratio apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rnow_core.algo.divergence import Teacher, token_divergence
from rnow_core.algo.divergence_full import FullTeacher
from rnow_core.algo.divergence_top import TopTeacher
from rnow_core.algo.events import Divergence
from rnow_core.algo.projection import Projection


class Head(Protocol):
    """An output head as data; see `head.token_logprobs` for its parts."""

    @property
    def weight_VH(self) -> Tensor:
        """Its weight."""
        ...

    @property
    def bias_V(self) -> Tensor | None:
        """Its bias, None without."""
        ...

    @property
    def softcap(self) -> float | None:
        """The final-logit cap, None without."""
        ...

    @property
    def scale(self) -> float:
        """Factor of the raw logits."""
        ...


@dataclass(frozen=True)
class DivergenceLoss:
    """The divergence of a run and its weight; `policy`: the logprobs need gradients too, for the rewards' part."""

    divergence: Divergence
    weight: float
    policy: bool

    def full(
        self, hidden_NH: Tensor, head: Head, ids_N: Tensor, teacher_NH: Tensor, teacher_head: Head
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Divergence from a teacher of hidden states [N, H_T] and a head; logprobs and entropy of the student [N]."""
        projection = Projection(
            teacher_head.weight_VH, teacher_head.bias_V, teacher_head.softcap, teacher_head.scale
        )
        return self._of(hidden_NH, head, ids_N, FullTeacher(teacher_NH, projection))

    def top(
        self, hidden_NH: Tensor, head: Head, ids_N: Tensor, top_ids_NS: Tensor, top_logprobs_NS: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same from a teacher of a few ids a token, as `top.top_logprobs` gives them."""
        return self._of(hidden_NH, head, ids_N, TopTeacher(top_ids_NS, top_logprobs_NS))

    def _of(
        self, hidden_NH: Tensor, head: Head, ids_N: Tensor, teacher: Teacher
    ) -> tuple[Tensor, Tensor, Tensor]:
        return token_divergence(
            hidden_NH,
            head.weight_VH,
            ids_N,
            teacher,
            self.divergence,
            bias_V=head.bias_V,
            softcap=head.softcap,
            scale=head.scale,
            policy=self.policy,
        )

"""What an update minimises: advantages and policy loss together, as a pure function of one forward's
logprobs.

    D_t = clip(teacher_tau * log p_teacher - student_tau * old, clip_min, clip_max)      then kl_discount
    A_t = adv_tau * A_task + D_t

In expectation over the student's own samples, adv_tau 0 with both taus b is b times the gradient of the
reverse KL. Unequal taus have their optimum at p_teacher^(teacher_tau / student_tau), renormalised. Where the teacher
gave a token no value (NaN) D_t is 0, and the token is trained by its reward alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rnow_core.algo.advantages import discount_later, teacher_advantages
from rnow_core.algo.losses import LossFn, importance_weights, token_loss


@dataclass(frozen=True)
class PolicyObjective:
    """The coefficients of `algorithm`. `correct_mismatch` is False where sampling was not at temperature 1
    and top_p 1: mu is then no probability of the policy, and w = 1.
    """

    loss_fn: LossFn = "ppo"
    adv_tau: float = 0.0
    teacher_tau: float = 0.1
    student_tau: float = 0.1
    clip_min: float | None = None
    clip_max: float | None = None
    kl_discount: float = 0.0
    tis_cap: float = 2.0
    cispo_cap: float = 4.0
    correct_mismatch: bool = True

    def __call__(
        self,
        logp_N: Tensor,
        *,
        old_N: Tensor | None,
        mu_N: Tensor,
        teacher_N: Tensor | None,
        task_N: Tensor,
        row_N: Tensor,
        position_N: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss summed over N trained tokens (the caller divides by the step's trained tokens), and detached
        columns.

        `old_N` None means that this is the batch's first update: old is this forward's logp. `row_N` and
        `position_N` say where in the batch each token stands; kl_discount needs them. The columns `old`,
        `advantage` and `clipped` (1 where a bound decided) have one value a token, in order. No token: loss
        0.
        """
        old_N = logp_N.detach() if old_N is None else old_N.detach()
        advantage_N = self._advantages(old_N, teacher_N, task_N, row_N, position_N)
        w_N = importance_weights(old_N, mu_N if self.correct_mismatch else old_N, self.tis_cap)
        loss_N, clipped_N = token_loss(self.loss_fn, self.cispo_cap)(logp_N, old_N, w_N, advantage_N)
        columns = {"old": old_N, "advantage": advantage_N, "clipped": clipped_N.to(logp_N.dtype)}
        return loss_N.sum(), columns

    def _advantages(
        self, old_N: Tensor, teacher_N: Tensor | None, task_N: Tensor, row_N: Tensor, position_N: Tensor
    ) -> Tensor:
        advantage_N = teacher_advantages(
            teacher_N,
            old_N,
            teacher_tau=self.teacher_tau,
            student_tau=self.student_tau,
            clip_min=self.clip_min,
            clip_max=self.clip_max,
        )
        if self.kl_discount > 0.0:
            advantage_N = discount_later(advantage_N, row_N, position_N, self.kl_discount)
        return advantage_N + self.adv_tau * task_N if self.adv_tau != 0.0 else advantage_N

"""Which weights a config means (design section 3, last table)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnow_core.config.schema import Config

DEFAULT_COEF = 0.1
DEFAULT_TAU = 0.5


@dataclass(frozen=True, slots=True)
class Weights:
    """Of a token's advantage adv_tau * A_task + clip(teacher_tau * logp_teacher - student_tau * logp)."""

    adv_tau: float
    teacher_tau: float
    student_tau: float


def resolve_weights(config: Config) -> Weights:
    """The weights of a config without stages; all 0 for `sft`, which has no advantages.

    `kl_penalty_coef: b` means (0, b, b). Without it, a set tau or a teacher's context means 0.5 for every
    tau that is not set; with nothing at all b is 0.1. `rl` has only the task's part.
    """
    algorithm = config.algorithm
    adv, teacher, student = algorithm.adv_tau, algorithm.teacher_tau, algorithm.student_tau
    if config.dataset_type == "sft":
        return Weights(0.0, 0.0, 0.0)
    if config.dataset_type == "rl":
        return Weights(1.0 if adv is None else adv, 0.0, 0.0)
    if algorithm.kl_penalty_coef is not None:
        return Weights(0.0, algorithm.kl_penalty_coef, algorithm.kl_penalty_coef)
    context = any(t.context is not None or t.context_file is not None for t in config.teacher)
    if context or any(tau is not None for tau in (adv, teacher, student)):
        return Weights(*(DEFAULT_TAU if tau is None else tau for tau in (adv, teacher, student)))
    return Weights(0.0, DEFAULT_COEF, DEFAULT_COEF)

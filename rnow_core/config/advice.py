"""Consequences of a config that its author may not expect. Warnings and notes, never errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rnow_core.config.problems import KeyPath, Problem
from rnow_core.config.schema import Config
from rnow_core.config.stability import StabilityConfig
from rnow_core.config.weights import DEFAULT_COEF

DEFAULT_TOPK = 64
DEFAULT_BETA = 0.5
DEFAULT_ROLLBACKS = 2


def advice(config: Config) -> list[Problem]:
    """Everything worth knowing about a config without stages and without contradictions."""
    return [problem for note in NOTES for problem in note(config)]


def unequal_weights(config: Config) -> Iterator[Problem]:
    """The optimum of teacher_tau * logp_teacher - student_tau * logp is p_teacher^ratio, renormalised."""
    weights = config.weights
    teacher, student = weights.teacher_tau, weights.student_tau
    if config.dataset_type != "distill" or teacher == student:
        return
    path, also = ("algorithm", "student_tau"), (("algorithm", "teacher_tau"),)
    if student == 0:
        message = "`student_tau: 0` collapses the student onto the teacher's most likely tokens"
        yield Problem(
            "RN130", path, message, f"student_tau: {teacher:g} trains towards the teacher", "warning", also
        )
    elif teacher > 0:
        power = teacher / student
        message = (
            f"`teacher_tau` {teacher:g} and `student_tau` {student:g} lead to the teacher's distribution "
            f"to the power {power:g}, renormalised, not towards the teacher"
        )
        yield Problem("RN130", path, message, "equal weights train towards the teacher", "warning", also)


def coefficient_under_adam(config: Config) -> Iterator[Problem]:
    """Adam divides by the gradient's own size, so a factor on every gradient hardly matters."""
    coef = config.algorithm.kl_penalty_coef
    if config.dataset_type == "distill" and coef not in (None, DEFAULT_COEF):
        message = (
            "in pure distillation `kl_penalty_coef` only rescales the gradient, which Adam divides out again"
        )
        hint = "use trainer.learning_rate to learn faster or slower"
        yield Problem("RN131", ("algorithm", "kl_penalty_coef"), message, hint, "info")


def biased_sampling(config: Config) -> Iterator[Problem]:
    """Logprobs are taken at temperature 1 over the whole vocabulary."""
    if config.dataset_type == "sft":
        return
    for key in ("temperature", "top_p"):
        value = getattr(config.rollout, key)
        if value != 1.0:
            message = (
                f"with `{key}: {value:g}` the estimate is biased: no importance weight and no mismatch alarm"
            )
            yield Problem("RN132", ("rollout", key), message, f"{key}: 1 is exact", "warning")


def without_effect(config: Config) -> Iterator[Problem]:
    """Keys that the rest of the config leaves without a say."""
    algorithm = config.algorithm
    cases: list[tuple[KeyPath, bool, str]] = [
        (
            ("algorithm", "topk"),
            algorithm.topk != DEFAULT_TOPK and algorithm.signal != "topk",
            "`topk` needs `signal: topk`",
        ),
        (
            ("algorithm", "beta_jsd"),
            algorithm.beta_jsd != DEFAULT_BETA and algorithm.divergence != "jsd",
            "`beta_jsd` needs `divergence: jsd`",
        ),
        (
            ("logging", "wandb_name"),
            config.logging.wandb_name is not None and config.logging.wandb_project is None,
            "`wandb_name` needs `wandb_project`",
        ),
        (
            ("algorithm", "teacher_tau"),
            config.dataset_type == "distill" and config.weights.teacher_tau == 0,
            "with `teacher_tau: 0` the teacher is measured, not learned from",
        ),
        (
            ("teacher",),
            config.dataset_type == "sft" and bool(config.teacher),
            "`dataset_type: sft` trains on given replies and never asks the `teacher`",
        ),
        (
            ("algorithm",),
            config.dataset_type == "sft" and bool(algorithm.model_fields_set),
            "`dataset_type: sft` has one loss, the cross-entropy of the given replies",
        ),
        (
            ("stability",),
            config.dataset_type == "sft" and config.stability != StabilityConfig(),
            "`dataset_type: sft` samples nothing in its steps that `stability` could watch",
        ),
        (
            ("stability", "max_rollbacks"),
            config.stability.max_rollbacks != DEFAULT_ROLLBACKS and config.stability.action != "rollback",
            "`max_rollbacks` needs `action: rollback`",
        ),
        (
            ("trainer", "train_on"),
            config.dataset_type != "sft" and config.trainer.train_on != "all_assistant",
            "`train_on` is for `dataset_type: sft`",
        ),
    ]
    for index, teacher in enumerate(config.teacher):
        context = teacher.context is not None or teacher.context_file is not None
        unused = teacher.context_role != "user" and not context
        cases.append((("teacher", index, "context_role"), unused, "`context_role` needs a `context`"))
    for path, applies, message in cases:
        if applies:
            yield Problem("RN133", path, f"no effect: {message}", severity="warning")


def teacher_equals_student(config: Config) -> Iterator[Problem]:
    """The base weights without a context of their own say what the student says before step 1."""
    if config.dataset_type != "distill" or config.model.adapter is not None or config.weights.adv_tau > 0:
        return
    for index, teacher in enumerate(config.teacher):
        sources = (teacher.context, teacher.context_file, teacher.adapter, teacher.ema)
        if teacher.path == "self" and all(source is None for source in sources):
            message = "a teacher `self` without a context equals the student at the start: nothing to learn"
            hint = "set teacher.context, or model.adapter to recover what a fine-tuning lost"
            yield Problem("RN134", ("teacher", index, "path"), message, hint, "warning", at="value")


NOTES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    unequal_weights,
    coefficient_under_adam,
    biased_sampling,
    without_effect,
    teacher_equals_student,
)

"""Config -> the student and its learner."""

from __future__ import annotations

from pathlib import Path

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.build.fixed import Fixed, model_path, samples_plainly
from rnow_core.config.schema import Config
from rnow_core.models.causal_lm import CausalLM, load_student
from rnow_core.models.device import DeviceThread, device_named
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.optimizer import OptimizerSettings


def load_student_of(config: Config, fixed: Fixed, project_dir: Path) -> CausalLM:
    """The student of a config, trainable, on the device that was chosen for training."""
    model = config.model
    return load_student(
        model_path(model.path, project_dir),
        rank=model.qlora_rank,
        alpha=model.qlora_alpha,
        target_modules=model.target_modules,
        dtype=model.dtype,
        device=device_named(fixed.device),
        adapter=(project_dir / Path(model.adapter).expanduser()) if model.adapter else None,
        gradient_checkpointing=fixed.gradient_checkpointing,
        seed=config.seed,
    )


def make_learner(
    config: Config, fixed: Fixed, student: CausalLM, device: DeviceThread, total_steps: int
) -> HFLearner:
    """The learner of a config, with its objective and optimizer settings."""
    algorithm, weights, trainer = config.algorithm, config.weights, config.trainer
    objective = PolicyObjective(
        loss_fn=algorithm.loss_fn,
        adv_tau=weights.adv_tau,
        teacher_tau=weights.teacher_tau,
        student_tau=weights.student_tau,
        clip_min=algorithm.clip_min,
        clip_max=algorithm.clip_max,
        kl_discount=algorithm.kl_discount,
        tis_cap=algorithm.tis_cap,
        cispo_cap=algorithm.cispo_cap,
        correct_mismatch=samples_plainly(config),
    )
    settings = OptimizerSettings(
        learning_rate=trainer.learning_rate,
        lr_schedule=trainer.lr_schedule,
        warmup_steps=trainer.warmup_steps,
        total_steps=total_steps,
        weight_decay=trainer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        updates_per_batch=trainer.updates_per_batch,
    )
    return HFLearner(
        student,
        device,
        objective=objective,
        token_logprobs=token_logprobs,
        settings=settings,
        micro_batch_tokens=fixed.micro_batch_tokens,
    )

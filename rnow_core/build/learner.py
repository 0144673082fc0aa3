"""Config -> the student and its learner, on every trainer rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.algo.supervised import CrossEntropy
from rnow_core.build.fixed import Fixed, model_path, samples_plainly
from rnow_core.build.signals import give_head, needs_head, term_of, with_divergence
from rnow_core.build.teachers import local_teacher
from rnow_core.config.schema import Config, resolved
from rnow_core.models.averaged_adapter import AveragedAdapter
from rnow_core.models.causal_lm import CausalLM, load_student
from rnow_core.models.device import DeviceThread, device_named, use_device
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.models.rank_processes import rank_device
from rnow_core.models.ranks import OneRank, Ranks
from rnow_core.models.training_pass import Objective


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
        quantized=model.quantization is not None,
        seed=config.seed,
    )


def announce(ranks: OneRank, config: Config, fixed: Fixed, project_dir: Path, total_steps: int) -> None:
    """Tell the followers what to load; they load it while this rank loads its own, up to `make_learner`."""
    setup = {
        "config": resolved(config),
        "fixed": asdict(fixed),
        "project_dir": str(project_dir.resolve()),
        "total_steps": total_steps,
    }
    with ranks.leading("set up", setup):
        pass


def make_follower(ranks: Ranks, setup: Mapping[str, Any]) -> HFLearner:
    """A follower's learner, from what rank 0 announced."""
    with ranks.together():
        config, fixed = Config.model_validate(setup["config"]), Fixed.stored(setup["fixed"])
        fixed = replace(fixed, device=rank_device(fixed.device, fixed.placement.trainer))
        device = DeviceThread(fixed.threads)
        device.call(use_device, device_named(fixed.device))
        student = device.call(load_student_of, config, fixed, Path(setup["project_dir"]))
        learner = _learner(config, fixed, student, device, setup["total_steps"], ranks)
        if needs_head(config):
            project_dir = Path(setup["project_dir"])
            teacher = device.call(local_teacher, config, fixed, project_dir, student, learner.average)
            give_head(learner, None if teacher is None else teacher.lm.head)
    learner.align()
    return learner


def make_learner(
    config: Config,
    fixed: Fixed,
    student: CausalLM,
    device: DeviceThread,
    total_steps: int,
    ranks: OneRank | None = None,
) -> HFLearner:
    """Rank 0's learner. With several `ranks` it waits until the followers have theirs; all start equal.

    Raises:
        RunFailed: a follower could not load the model.
    """
    ranks = ranks or OneRank()
    with ranks.together():
        learner = _learner(config, fixed, student, device, total_steps, ranks)
    learner.align()
    return learner


def _learner(
    config: Config,
    fixed: Fixed,
    student: CausalLM,
    device: DeviceThread,
    total_steps: int,
    ranks: OneRank,
) -> HFLearner:
    """The learner of a config, with its objective and optimizer settings."""
    trainer = config.trainer
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
        objective=_objective(config),
        token_logprobs=token_logprobs,
        settings=settings,
        micro_batch_tokens=fixed.micro_batch_tokens,
        ranks=ranks,
        average=_average(config, student),
        term=term_of(config),
    )


def _average(config: Config, student: CausalLM) -> AveragedAdapter | None:
    """The moving average that a teacher of the config wears, on every rank."""
    decays = [teacher.ema for teacher in config.teacher if teacher.ema is not None]
    return AveragedAdapter(student.trainable_parameters(), decays[0]) if decays else None


def _objective(config: Config) -> Objective:
    """What an update minimises."""
    if config.dataset_type == "sft":
        return CrossEntropy()
    algorithm, weights = config.algorithm, config.weights
    return PolicyObjective(
        loss_fn=algorithm.loss_fn,
        adv_tau=weights.adv_tau,
        teacher_tau=0.0 if with_divergence(config) else weights.teacher_tau,
        student_tau=0.0 if with_divergence(config) else weights.student_tau,
        clip_min=algorithm.clip_min,
        clip_max=algorithm.clip_max,
        kl_discount=algorithm.kl_discount,
        tis_cap=algorithm.tis_cap,
        cispo_cap=algorithm.cispo_cap,
        correct_mismatch=samples_plainly(config),
    )

"""Config -> concrete parts. The only place that names concrete classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.models.causal_lm import CausalLM, load_frozen, load_student
from rnow_core.models.device import DeviceThread, cpu_threads, device_named, pick_device
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.microbatch import token_budget
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.models.seams import Teacher
from rnow_core.rollout.parts import RewardScorer, RolloutParts
from rnow_core.types import SamplingParams

SELF = "self"
FIRST_VERSION = "student-000000"
SLOTS_AT_LEAST = 256
"""Rows that are decoded at once, as far as the cache has room: evaluations have more of them than small steps."""


@dataclass(frozen=True)
class Fixed:
    """What is chosen once at the start of a run and stored with it, so that a resumed run computes the same."""

    device: str
    threads: int
    micro_batch_tokens: int
    gradient_checkpointing: bool
    kv_tokens: int
    slots: int


@dataclass(frozen=True)
class Built:
    """The parts of a run. `baseline` samples from the teacher, where the config asks for its accuracy."""

    device: DeviceThread
    learner: HFLearner
    training: RolloutParts
    evaluation: RolloutParts
    baseline: RolloutParts | None
    student_as_teacher: Teacher
    half_precision: bool

    async def close(self) -> None:
        """Free samplers and teachers, then the thread that they computed in."""
        parts = [self.training] + ([self.baseline] if self.baseline else [])
        for part in parts:
            await part.sampler.close()
        for teacher in self.training.teachers.values():
            await teacher.close()
        self.device.close()


def choose_fixed(config: Config, kv_tokens: int, parameters: int) -> Fixed:
    """The sizes of a new run on this machine.

    `kv_tokens` is what the plan gives the sampler's cache, `parameters` the size of the larger model.
    """
    device = pick_device()
    wanted = config.trainer.gradient_checkpointing
    return Fixed(
        device=str(device),
        threads=cpu_threads(parameters),
        micro_batch_tokens=token_budget(config.trainer.micro_batch_tokens, device.type),
        gradient_checkpointing=device.type == "cuda" if wanted == "auto" else wanted,
        kv_tokens=kv_tokens,
        slots=max(SLOTS_AT_LEAST, config.data.batch_size * config.data.group_size),
    )


def build(
    config: Config,
    fixed: Fixed,
    *,
    project_dir: Path,
    renderer: Renderer,
    context_window: int,
    rewards: RewardScorer | None,
    total_steps: int,
    phase: Callable[[str], AbstractContextManager[object]],
) -> Built:
    """Load the models and put the parts together."""
    device = DeviceThread(fixed.threads)
    student = device.call(_load_student, config, fixed, project_dir)
    teacher_lm = device.call(_load_teacher, config, fixed, project_dir, student)
    teachers = _teachers(config, fixed, teacher_lm, student, device)
    params = SamplingParams(
        max_tokens=config.rollout.max_tokens,
        stop_ids=renderer.stop_ids,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
    )
    training = RolloutParts(
        renderer=renderer,
        sampler=HFSampler(
            student,
            device,
            version=FIRST_VERSION,
            max_slots=fixed.slots,
            kv_budget_tokens=fixed.kv_tokens,
        ),
        teachers=teachers,
        rewards=None if config.algorithm.skip_verification else rewards,
        params=params,
        context_window=context_window,
        seed=config.seed,
        template_options=template_options(config.rollout.reasoning_mode),
        phase=phase,
    )
    evaluation = replace(training, rewards=rewards, params=_eval_params(config, params))
    return Built(
        device=device,
        learner=_learner(config, fixed, student, device, total_steps),
        training=training,
        evaluation=evaluation,
        baseline=_baseline(config, fixed, teacher_lm, student, device, evaluation),
        student_as_teacher=_scorer(student, device, fixed),
        half_precision=student.half_precision,
    )


def _load_student(config: Config, fixed: Fixed, project_dir: Path) -> CausalLM:
    model = config.model
    return load_student(
        model_path(model.path, project_dir),
        rank=model.qlora_rank,
        alpha=model.qlora_alpha,
        target_modules=model.target_modules,
        dtype=model.dtype,
        device=device_named(fixed.device),
        adapter=project_dir / Path(model.adapter).expanduser() if model.adapter else None,
        gradient_checkpointing=fixed.gradient_checkpointing,
        seed=config.seed,
    )


def _load_teacher(config: Config, fixed: Fixed, project_dir: Path, student: CausalLM) -> CausalLM | None:
    """The model that the teacher is: the student's own for `self`, None without a teacher."""
    if not config.teacher:
        return None
    path = config.teacher[0].path
    if path == SELF:
        return student
    return load_frozen(
        model_path(path, project_dir), dtype=config.model.dtype, device=device_named(fixed.device)
    )


def _teachers(
    config: Config, fixed: Fixed, teacher_lm: CausalLM | None, student: CausalLM, device: DeviceThread
) -> Mapping[str, Teacher]:
    if teacher_lm is None:
        return {}
    name = config.teacher[0].name or "teacher"
    return {name: _scorer(teacher_lm, device, fixed, base_of_student=teacher_lm is student)}


def _scorer(lm: CausalLM, device: DeviceThread, fixed: Fixed, base_of_student: bool = False) -> HFTeacher:
    return HFTeacher(
        lm,
        device,
        token_logprobs=token_logprobs,
        micro_batch_tokens=fixed.micro_batch_tokens,
        base_of_student=base_of_student,
    )


def _learner(
    config: Config, fixed: Fixed, student: CausalLM, device: DeviceThread, total_steps: int
) -> HFLearner:
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


def _baseline(
    config: Config,
    fixed: Fixed,
    teacher_lm: CausalLM | None,
    student: CausalLM,
    device: DeviceThread,
    evaluation: RolloutParts,
) -> RolloutParts | None:
    """Parts that sample from the teacher; nobody scores what it says."""
    if teacher_lm is None or not config.teacher[0].eval_baseline:
        return None
    sampler = HFSampler(
        teacher_lm,
        device,
        version="teacher",
        max_slots=fixed.slots,
        kv_budget_tokens=fixed.kv_tokens,
        base_weights=teacher_lm is student,
    )
    return replace(evaluation, sampler=sampler, teachers={})


def _eval_params(config: Config, params: SamplingParams) -> SamplingParams:
    return replace(params, max_tokens=config.eval.max_tokens or params.max_tokens)


def samples_plainly(config: Config) -> bool:
    """True when the student is sampled as it is: only then do sampler and learner logprobs name one policy."""
    return config.rollout.temperature == 1.0 and config.rollout.top_p == 1.0


def model_path(path: str, project_dir: Path) -> str:
    """A folder as an absolute path, a hub id as it is."""
    folder = (project_dir / Path(path).expanduser()).resolve()
    return str(folder) if folder.is_dir() else path

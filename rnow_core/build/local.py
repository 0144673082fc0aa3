"""The engine in this process: transformers models that share one device and one thread with the learner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rnow_core.algo.head import token_logprobs
from rnow_core.build.engine import SELF, Progress, Role
from rnow_core.build.fixed import Fixed, model_path
from rnow_core.config.schema import Config
from rnow_core.models.causal_lm import CausalLM, load_frozen
from rnow_core.models.device import DeviceThread, device_named
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.seams import Learner, Sampler, Teacher
from rnow_core.types import version_name


class LocalEngine:
    """`Engine` of transformers models."""

    def __init__(
        self,
        config: Config,
        fixed: Fixed,
        *,
        project_dir: Path,
        context_window: int,
        student: CausalLM,
        device: DeviceThread,
    ) -> None:
        self.context_window = context_window
        teacher = device.call(_load_teacher, config, fixed, project_dir, student)
        self.adapters: Path | None = None
        self.sampler: Sampler = _sampler(student, device, fixed, version_name(0))
        self.teachers: Mapping[str, Teacher] = {}
        self.baseline: Sampler | None = None
        self.student_as_teacher: Teacher = scorer(student, device, fixed)
        self.student_here: Teacher | None = None
        if teacher is not None:
            own = teacher is student
            name = config.teacher[0].name or "teacher"
            self.teachers = {name: scorer(teacher, device, fixed, base_of_student=own)}
            if config.teacher[0].eval_baseline:
                self.baseline = _sampler(teacher, device, fixed, "teacher", base_weights=own)

    async def start(self, learner: Learner, progress: Progress) -> None:
        """Nothing to start: the sampler has the learner's weights; it only needs their name."""
        await self.sampler.use(learner.publish(self.adapters))

    async def take_turn(self, role: Role) -> None:
        """Nothing to hand over: all models stay where they are."""

    async def close(self) -> None:
        """Free samplers and teachers."""
        await self.sampler.close()
        if self.baseline is not None:
            await self.baseline.close()
        for teacher in self.teachers.values():
            await teacher.close()


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


def scorer(lm: CausalLM, device: DeviceThread, fixed: Fixed, base_of_student: bool = False) -> HFTeacher:
    """A model of this process as a teacher."""
    return HFTeacher(
        lm,
        device,
        token_logprobs=token_logprobs,
        micro_batch_tokens=fixed.micro_batch_tokens,
        base_of_student=base_of_student,
    )


def _sampler(
    lm: CausalLM, device: DeviceThread, fixed: Fixed, version: str, base_weights: bool = False
) -> HFSampler:
    return HFSampler(
        lm,
        device,
        version=version,
        max_slots=fixed.slots,
        kv_budget_tokens=fixed.kv_tokens,
        base_weights=base_weights,
    )

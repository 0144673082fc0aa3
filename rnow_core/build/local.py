"""The engine in this process: transformers models that share one device and one thread with the learner."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from rnow_core.algo.head import token_logprobs
from rnow_core.build.contexts import name_of
from rnow_core.build.engine import Progress, Role
from rnow_core.build.fixed import Fixed
from rnow_core.build.teachers import local_teacher
from rnow_core.config.schema import Config
from rnow_core.models.averaged_adapter import AveragedAdapter
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.hf_teacher import HFTeacher, Wearing
from rnow_core.models.seams import Learner, Sampler, Teacher
from rnow_core.types import version_name


class LocalEngine:
    """`Engine` of transformers models. `average` is the learner's, where a teacher wears it."""

    def __init__(
        self,
        config: Config,
        fixed: Fixed,
        *,
        project_dir: Path,
        context_window: int,
        student: CausalLM,
        device: DeviceThread,
        average: AveragedAdapter | None = None,
    ) -> None:
        self.context_window = context_window
        teacher = device.call(local_teacher, config, fixed, project_dir, student, average)
        self.teacher_head = None if teacher is None else teacher.lm.head
        self.adapters: Path | None = None
        self.sampler: Sampler = HFSampler(
            student,
            device,
            version=version_name(0),
            max_slots=fixed.slots,
            kv_budget_tokens=fixed.kv_tokens,
        )
        self.teachers: Mapping[str, Teacher] = {}
        self.baseline: Sampler | None = None
        self.student_as_teacher: Teacher = scorer(student, device, fixed)
        self.student_here: Teacher | None = None
        if teacher is not None:
            self.teachers = {name_of(config.teacher[0]): teacher.scorer(device, fixed)}
            if config.teacher[0].eval_baseline:
                self.baseline = teacher.sampler(device, fixed)

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


def scorer(lm: CausalLM, device: DeviceThread, fixed: Fixed, wearing: Wearing = nullcontext) -> HFTeacher:
    """The student of this process scoring in the way that teachers do, for the self-check."""
    return HFTeacher(
        lm,
        device,
        token_logprobs=token_logprobs,
        micro_batch_tokens=fixed.micro_batch_tokens,
        wearing=wearing,
    )

"""Config -> the teacher that transformers holds in this process."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.top import top_logprobs
from rnow_core.build.engine import SELF
from rnow_core.build.fixed import Fixed, model_path
from rnow_core.config.inputs import TeacherConfig
from rnow_core.config.schema import Config
from rnow_core.models.averaged_adapter import AveragedAdapter
from rnow_core.models.causal_lm import CausalLM, load_frozen
from rnow_core.models.device import DeviceThread, device_named
from rnow_core.models.frozen_adapter import wear
from rnow_core.models.hf_teacher import HFTeacher, Wearing
from rnow_core.models.teacher_sampler import TeacherSampler


@dataclass(frozen=True)
class LocalTeacher:
    """A model and what makes it the teacher; `frozen`: no step of the run changes that."""

    lm: CausalLM
    wearing: Wearing
    frozen: bool

    def scorer(self, device: DeviceThread, fixed: Fixed) -> HFTeacher:
        """It as a teacher."""
        return HFTeacher(
            self.lm,
            device,
            token_logprobs=token_logprobs,
            top_logprobs=top_logprobs,
            micro_batch_tokens=fixed.micro_batch_tokens,
            wearing=self.wearing,
            frozen=self.frozen,
        )

    def sampler(self, device: DeviceThread, fixed: Fixed) -> TeacherSampler:
        """It as a sampler."""
        return TeacherSampler(
            self.lm, device, wearing=self.wearing, max_slots=fixed.slots, kv_budget_tokens=fixed.kv_tokens
        )


def local_teacher(
    config: Config, fixed: Fixed, project_dir: Path, student: CausalLM, average: AveragedAdapter | None
) -> LocalTeacher | None:
    """The teacher of a config, None without one; on the device thread.

    `average` is the learner's, for `teacher.ema`. Raises RnowError when a folder does not hold what the config says.
    """
    if not config.teacher:
        return None
    teacher = config.teacher[0]
    if teacher.path == SELF:
        return _of_student(teacher, project_dir, student, average)
    lm = load_frozen(
        model_path(teacher.path, project_dir),
        dtype=config.model.dtype,
        device=device_named(fixed.device),
        quantized=teacher.quantization is not None,
    )
    wearing = wear(lm, _folder(teacher.adapter, project_dir)) if teacher.adapter else nullcontext
    return LocalTeacher(lm, wearing, frozen=True)


def _of_student(
    teacher: TeacherConfig, project_dir: Path, student: CausalLM, average: AveragedAdapter | None
) -> LocalTeacher:
    """The student's base weights: alone, under a frozen adapter, or under the average of its own."""
    if teacher.ema is not None:
        assert average is not None, "the learner keeps the average that teacher.ema asks for"
        return LocalTeacher(student, average.worn, frozen=False)
    if teacher.adapter is not None:
        return LocalTeacher(student, wear(student, _folder(teacher.adapter, project_dir)), frozen=True)
    return LocalTeacher(student, student.adapter_off, frozen=True)


def _folder(path: str, project_dir: Path) -> Path:
    return (project_dir / Path(path).expanduser()).resolve()

"""The engine behind HTTP: vLLM servers that rnow starts, or that somebody else runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from rnow_core.build.contexts import name_of, scores_here
from rnow_core.build.engine import Progress, Role
from rnow_core.build.fixed import Fixed
from rnow_core.build.local import scorer
from rnow_core.build.served_base import served_base
from rnow_core.build.servers import BASE, ServerMaker, ServerRole, Started
from rnow_core.build.signals import served_top
from rnow_core.build.teachers import local_teacher
from rnow_core.config.schema import Config
from rnow_core.models.averaged_adapter import AveragedAdapter
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread, free_cache
from rnow_core.models.output_head import OutputHead
from rnow_core.models.seams import Learner, Sampler, Teacher
from rnow_core.models.vllm_command import served_max_logprobs
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.models.vllm_teacher import VLLMTeacher
from rnow_core.models.vllm_weights import ServedWeights


class ServedEngine:
    """`Engine` of vLLM servers: one for the student, and one for a teacher with weights of its own.

    Where servers and trainer take turns on one GPU, a server sleeps except in its own phases. A teacher that is the
    student wearing something else scores in this process, in the trainer's phases; `average` is the learner's.
    """

    def __init__(
        self,
        config: Config,
        fixed: Fixed,
        *,
        project_dir: Path,
        run_dir: Path,
        context_window: int,
        scored_window: int,
        student: CausalLM,
        device: DeviceThread,
        average: AveragedAdapter | None = None,
    ) -> None:
        self.adapters: Path | None = run_dir / "adapters"
        # a server samples one token behind whatever it scores, so a conversation leaves it room for that
        self.context_window = context_window - 1
        self._device = device
        self._in_turns = fixed.placement.sharing == "sleep"
        self._working: Role | None = None
        full, on_gpu = config.model.qlora_rank == 0, fixed.device.startswith("cuda")
        dtype = "bfloat16" if student.half_precision else "float32"
        logs = run_dir / "logs"
        maker = ServerMaker(config, fixed, project_dir, logs, context_window, scored_window, dtype)
        base = device.call(served_base, student, project_dir) if config.model.quantization else None
        self._student = maker.student(student.adapter_modules, base)
        self._teacher = maker.teacher(self._student)
        client = self._student.client
        self._sampler = VLLMSampler(
            client,
            context_window=context_window,
            vocab_size=student.vocab_rows,
            base=BASE,
            versions=ServedWeights(client, BASE, packed_head=not on_gpu) if full else None,
        )
        self.sampler: Sampler = self._sampler
        # the base weights: vLLM's CPU build cannot give prompt logprobs under an adapter
        self._student_scorer = self._scorer(self._student)
        self.student_as_teacher: Teacher = self._student_scorer
        self.student_here: Teacher | None = scorer(
            student, device, fixed, nullcontext if full else student.adapter_off
        )
        self.teacher_head: OutputHead | None = None
        self._teacher_scorer = self._scorer(self._teacher, served_top(config)) if self._teacher else None
        self._baseline: VLLMSampler | None = None
        if self._teacher is not None and config.teacher[0].eval_baseline:
            self._baseline = VLLMSampler(self._teacher.client, context_window=scored_window, base=BASE)
        self.baseline: Sampler | None = self._baseline
        self.teachers: Mapping[str, Teacher] = {}
        if self._teacher_scorer is not None:
            self.teachers = {name_of(config.teacher[0]): self._teacher_scorer}
        self._scores_here = any(scores_here(teacher, project_dir) for teacher in config.teacher)
        here = self._scores_here and device.call(local_teacher, config, fixed, project_dir, student, average)
        if here:
            self.teachers = {name_of(config.teacher[0]): here.scorer(device, fixed)}
            self.teacher_head = here.lm.head

    async def start(self, learner: Learner, progress: Progress) -> None:
        """Start the servers, prove them, and load the learner's weights.

        Side by side, but one after the other where they take turns: each is sized for the GPU without the others.
        """
        if self._in_turns:
            await self._device.run(free_cache)
            for role in self._roles():
                self._ask_for(role, await role.start(progress))
                await role.sleeper.sleep()
        else:
            started = await asyncio.gather(*(role.start(progress) for role in self._roles()))
            for role, answer in zip(self._roles(), started, strict=True):
                self._ask_for(role, answer)
        await self.take_turn("student")
        await self.sampler.use(learner.publish(self.adapters))

    async def take_turn(self, role: Role) -> None:
        """Wake a role's server and put the others to sleep, the trainer's spare memory freed before."""
        if role == "teacher" and self._scores_here:
            role = "trainer"
        if role == "teacher" and self._teacher is self._student:
            role = "student"
        if not self._in_turns or role == self._working:
            return
        await self._device.run(free_cache)
        others = [other for other in self._roles() if other.name != role]
        for other in others:
            await other.sleeper.sleep()
        for worker in self._roles():
            if worker not in others:
                await worker.sleeper.wake()
        self._working = role

    async def close(self) -> None:
        """End requests, connections and servers."""
        await self.sampler.close()
        if self.baseline is not None:
            await self.baseline.close()
        for role in self._roles():
            await role.close()

    def _roles(self) -> list[ServerRole]:
        """Each server once."""
        teacher = [self._teacher] if self._teacher is not None and self._teacher is not self._student else []
        return [self._student, *teacher]

    def _ask_for(self, role: ServerRole, started: Started) -> None:
        """Use the names that the server answers to, and the form in which it scores."""
        if role is self._student:
            self._sampler.ask_for(started.model)
            self._student_scorer.ask_for(started.model)
        if role is self._teacher and self._teacher_scorer is not None:
            self._teacher_scorer.ask_for(started.model, binary=started.binary)
            if self._baseline is not None:
                self._baseline.ask_for(started.model)

    def _scorer(self, role: ServerRole, top: int = 0) -> VLLMTeacher:
        alone = role is not self._student and not self._in_turns
        unit: Literal["group", "step"] = "group" if alone else "step"
        return VLLMTeacher(
            role.client,
            context_window=role.window,
            model=BASE,
            unit=unit,
            max_logprobs=served_max_logprobs(top) if role.server else None,
        )

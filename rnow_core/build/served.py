"""The engine behind HTTP: vLLM servers that rnow starts, or that somebody else runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rnow_core.build.engine import SELF, Progress
from rnow_core.build.fixed import Fixed, model_path
from rnow_core.build.local import scorer
from rnow_core.config.schema import Config
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread
from rnow_core.models.seams import Learner, Sampler, Teacher
from rnow_core.models.vllm_command import ServerSpec
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_probe import probe, require_same_scores, require_sampler, require_teacher
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.models.vllm_server import ManagedServer
from rnow_core.models.vllm_teacher import VLLMTeacher

BASE = "base"
SCORING_TOKENS = 2048
"""`--max-num-batched-tokens` of a server that scores: vLLM holds tokens x vocabulary logits in float32 for them, about
1.2 GB at 152,000 entries, outside its own memory plan."""
SHARED, CROWDED = 0.45, 0.3
"""Share of a GPU's memory for a server that shares it with training, or with training and a second
server."""
API_KEYS = {"student": "RNOW_ROLLOUT_API_KEY", "teacher": "RNOW_TEACHER_API_KEY"}


@dataclass(frozen=True)
class Role:
    """One server in its role: `server` is None when somebody else runs it."""

    name: Literal["student", "teacher"]
    model: str
    client: VLLMClient
    server: ManagedServer | None

    async def start(self, progress: Progress) -> None:
        """Start the server if it is ours, then ask it whether it can do what the role needs."""
        if self.server is not None:
            await self.server.start(progress)
        facts = await probe(self.client, BASE if self.server else self.model)
        if self.name == "student":
            require_sampler(facts, str(self.client.endpoint), adapters=True)
        else:
            require_teacher(facts, str(self.client.endpoint))
            await require_same_scores(self.client, facts)

    async def close(self) -> None:
        """Close the connections and end the server if it is ours."""
        await self.client.close()
        if self.server is not None:
            await self.server.stop()


class ServedEngine:
    """`Engine` of vLLM servers: one for the student, and one for a teacher with weights of its own."""

    def __init__(
        self,
        config: Config,
        fixed: Fixed,
        *,
        project_dir: Path,
        run_dir: Path,
        context_window: int,
        student: CausalLM,
        device: DeviceThread,
    ) -> None:
        self.adapters: Path | None = run_dir / "adapters"
        self._server_window = context_window
        # a server samples one token behind whatever it scores, so a conversation leaves it room for that
        self.context_window = context_window - 1
        dtype = "bfloat16" if student.half_precision else "float32"
        maker = _Maker(config, fixed, project_dir, run_dir / "logs", context_window, dtype)
        self._student = maker.student(student.adapter_modules)
        self._teacher = maker.teacher(self._student)
        self.sampler: Sampler = VLLMSampler(
            self._student.client, context_window=context_window, vocab_size=student.vocab_rows, base=BASE
        )
        self.teachers: Mapping[str, Teacher] = {}
        self.baseline: Sampler | None = None
        # the base weights: vLLM's CPU build cannot give prompt logprobs under an adapter
        self.student_as_teacher: Teacher = self._scorer(self._student, BASE)
        self.student_here: Teacher | None = scorer(student, device, fixed, base_of_student=True)
        if self._teacher is not None:
            name = config.teacher[0].name or "teacher"
            served = self._teacher.model if self._teacher.server is None else BASE
            self.teachers = {name: self._scorer(self._teacher, served)}
            if config.teacher[0].eval_baseline:
                self.baseline = VLLMSampler(self._teacher.client, context_window=context_window, base=served)

    async def start(self, learner: Learner, progress: Progress) -> None:
        """Start the servers side by side, prove them, and load the learner's weights."""
        roles = {id(role): role for role in (self._student, self._teacher) if role is not None}
        await asyncio.gather(*(role.start(progress) for role in roles.values()))
        await self.sampler.use(learner.publish(self.adapters))

    async def close(self) -> None:
        """End requests, connections and servers."""
        await self.sampler.close()
        if self.baseline is not None:
            await self.baseline.close()
        for role in {id(role): role for role in (self._student, self._teacher) if role}.values():
            await role.close()

    def _scorer(self, role: Role, model: str) -> VLLMTeacher:
        if role is not self._student:
            return VLLMTeacher(role.client, context_window=self._server_window, model=model)
        return VLLMTeacher(
            role.client,
            context_window=self._server_window,
            model=model,
            unit="step",
        )


@dataclass(frozen=True)
class _Maker:
    """Makes the roles of a run."""

    config: Config
    fixed: Fixed
    project_dir: Path
    logs: Path
    context_window: int
    dtype: str

    def student(self, adapter_modules: tuple[str, ...]) -> Role:
        """The student's server: adapters on, prefix cache on."""
        model = model_path(self.config.model.path, self.project_dir)
        if self.config.rollout.url:
            return self._elsewhere("student", model, self.config.rollout.url)
        own_teacher = bool(self.config.teacher) and self.config.teacher[0].path == SELF
        spec = ServerSpec(
            role="student",
            model=model,
            log_file=self.logs / "student-server.log",
            name=BASE,
            enable_lora=True,
            lora_rank=self.config.model.qlora_rank,
            lora_modules=adapter_modules,
            max_model_len=self.context_window,
            max_num_batched_tokens=SCORING_TOKENS if own_teacher and self._on_gpu else None,
            dtype=self.dtype,
            seed=self.config.seed,
            on_gpu=self._on_gpu,
            gpu_memory_utilization=SHARED if own_teacher or self._teacher_elsewhere else CROWDED,
        )
        return self._managed(spec)

    def teacher(self, student: Role) -> Role | None:
        """The teacher's server: the student's own for `self`, None without a teacher."""
        if not self.config.teacher:
            return None
        teacher = self.config.teacher[0]
        if teacher.path == SELF:
            return student
        model = model_path(teacher.path, self.project_dir)
        if teacher.url:
            return self._elsewhere("teacher", model, teacher.url)
        spec = ServerSpec(
            role="teacher",
            model=model,
            log_file=self.logs / "teacher-server.log",
            name=BASE,
            prefix_caching=False,
            max_model_len=self.context_window,
            max_num_batched_tokens=max(SCORING_TOKENS, self.context_window) if self._on_gpu else None,
            dtype=self.dtype,
            seed=self.config.seed,
            on_gpu=self._on_gpu,
            gpu_memory_utilization=CROWDED,
        )
        return self._managed(spec)

    @property
    def _on_gpu(self) -> bool:
        return self.fixed.device.startswith("cuda")

    @property
    def _teacher_elsewhere(self) -> bool:
        return not self.config.teacher or self.config.teacher[0].url is not None

    def _managed(self, spec: ServerSpec) -> Role:
        server = ManagedServer(spec)
        endpoint = Endpoint(role=f"the {spec.role}'s server", socket=server.socket)
        client = VLLMClient(endpoint, max_in_flight=self.fixed.slots, on_down=server.ensure)
        return Role(spec.role, spec.model, client, server)

    def _elsewhere(self, role: Literal["student", "teacher"], model: str, url: str) -> Role:
        key = API_KEYS[role] if os.environ.get(API_KEYS[role]) else None
        endpoint = Endpoint(role=f"the {role}'s server", url=url, api_key_env=key)
        return Role(role, model, VLLMClient(endpoint, max_in_flight=self.fixed.slots), None)

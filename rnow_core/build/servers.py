"""The vLLM servers of a run: what each is started with, and whether it can do what its role needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from rnow_core.build.contexts import worn_by_student
from rnow_core.build.engine import SELF, Progress
from rnow_core.build.fixed import Fixed, model_path
from rnow_core.build.placement import Parallel
from rnow_core.build.signals import served_top
from rnow_core.config.schema import Config
from rnow_core.models.vllm_binary import probe_binary
from rnow_core.models.vllm_command import ServerSpec, has_binary_scores, served_max_logprobs
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_probe import (
    probe,
    require_same_scores,
    require_sampler,
    require_teacher,
    require_window,
)
from rnow_core.models.vllm_server import ManagedServer
from rnow_core.models.vllm_sleep import Sleeper

BASE = "base"
SCORING_TOKENS = 2048
"""`--max-num-batched-tokens` of a server that scores: vLLM holds tokens x vocabulary logits in float32 for them, about
1.2 GB at 152,000 entries, outside its own memory plan."""
API_KEYS = {"student": "RNOW_ROLLOUT_API_KEY", "teacher": "RNOW_TEACHER_API_KEY"}


@dataclass(frozen=True)
class Started:
    """What requests call the server's model, and whether it scores given ids in the binary form."""

    model: str
    binary: bool


@dataclass(frozen=True)
class ServerRole:
    """One server in its role: `server` is None when somebody else runs it.

    `window` is the tokens that it must take, scored sequences and the one that is sampled behind them. `full`: new
    versions of the student are whole models instead of adapters.
    """

    name: Literal["student", "teacher"]
    model: str
    client: VLLMClient
    server: ManagedServer | None
    window: int
    full: bool = False

    @property
    def sleeper(self) -> Sleeper:
        """Its sleep and wake."""
        return Sleeper(self.client)

    async def start(self, progress: Progress) -> Started:
        """Start the server if it is ours, then ask it whether it can do what the role needs.

        Raises:
            RunFailed: it cannot, does not start, or serves another model or a shorter window.
        """
        if self.server is None:
            return await self._prove()
        await self.server.start(progress)
        with self.server.without_restarts():
            return await self._prove()

    async def _prove(self) -> Started:
        facts = await probe(self.client, BASE if self.server else self.model)
        place = str(self.client.endpoint)
        require_window(facts, place, self.window)
        if self.name == "student":
            require_sampler(facts, place, adapters=not self.full, weights=self.full)
            return Started(facts.model, binary=False)
        require_teacher(facts, place)
        binary = await probe_binary(self.client, facts.model)
        await require_same_scores(self.client, facts, binary=binary)
        return Started(facts.model, binary)

    async def close(self) -> None:
        """Close the connections and end the server if it is ours."""
        await self.client.close()
        if self.server is not None:
            await self.server.stop()


class Common(TypedDict):
    """The fields of `ServerSpec` that do not depend on the role."""

    max_model_len: int
    dtype: str
    seed: int
    on_gpu: bool
    gpus: tuple[int, ...]
    tensor_parallel: int
    data_parallel: int
    sleep_mode: bool


@dataclass(frozen=True)
class ServerMaker:
    """Makes the roles of a run; nothing is started. `dtype` is vLLM's name of the weights' precision.

    `scored_window`: tokens of the longest sequence that the teacher reads, which is longer than a conversation where it
    sees a context.
    """

    config: Config
    fixed: Fixed
    project_dir: Path
    logs: Path
    context_window: int
    scored_window: int
    dtype: str

    def student(self, adapter_modules: tuple[str, ...], base: Path | None = None) -> ServerRole:
        """The student's server: adapters on, prefix cache on. `base`: serves this folder instead of `model.path`."""
        model = str(base or model_path(self.config.model.path, self.project_dir))
        own_teacher = any(t.path == SELF and not worn_by_student(t) for t in self.config.teacher)
        window = self.scored_window if own_teacher else self.context_window
        if self.config.rollout.url:
            return self._elsewhere("student", model, self.config.rollout.url, window)
        placement = self.fixed.placement
        return self._managed(
            ServerSpec(
                role="student",
                model=model,
                log_file=self.logs / "student-server.log",
                name=BASE,
                enable_lora=not self._full,
                lora_rank=self.config.model.qlora_rank,
                lora_modules=adapter_modules,
                max_logprobs=served_max_logprobs(served_top(self.config) if own_teacher else 0),
                max_num_batched_tokens=SCORING_TOKENS if own_teacher and self._on_gpu else None,
                gpu_memory_utilization=placement.shares.student,
                **self._common(placement.inference, window),
            )
        )

    def teacher(self, student: ServerRole) -> ServerRole | None:
        """The teacher's server: the student's own for `self`, None without a teacher that needs one."""
        if not self.config.teacher or worn_by_student(self.config.teacher[0]):
            return None
        teacher = self.config.teacher[0]
        if teacher.path == SELF:
            return student
        model = model_path(teacher.path, self.project_dir)
        if teacher.url:
            return self._elsewhere("teacher", model, teacher.url, self.scored_window)
        placement = self.fixed.placement
        return self._managed(
            ServerSpec(
                role="teacher",
                model=model,
                log_file=self.logs / "teacher-server.log",
                name=BASE,
                prefix_caching=False,
                max_logprobs=served_max_logprobs(served_top(self.config)),
                score_given=self._on_gpu and has_binary_scores(),
                max_num_batched_tokens=max(SCORING_TOKENS, self.scored_window) if self._on_gpu else None,
                gpu_memory_utilization=placement.shares.teacher,
                **self._common(placement.teacher, self.scored_window),
            )
        )

    @property
    def _full(self) -> bool:
        return self.config.model.qlora_rank == 0

    @property
    def _on_gpu(self) -> bool:
        return self.fixed.device.startswith("cuda")

    def _common(self, parallel: Parallel, window: int) -> Common:
        """What both servers are started with."""
        return {
            "max_model_len": window,
            "dtype": self.dtype,
            "seed": self.config.seed,
            "on_gpu": self._on_gpu,
            "gpus": parallel.gpus,
            "tensor_parallel": parallel.tensor,
            "data_parallel": parallel.data,
            "sleep_mode": self.fixed.placement.sharing == "sleep",
        }

    def _managed(self, spec: ServerSpec) -> ServerRole:
        server = ManagedServer(spec)
        endpoint = Endpoint(role=f"the {spec.role}'s server", socket=server.socket)
        client = VLLMClient(endpoint, max_in_flight=self.fixed.slots, on_down=server.ensure)
        return ServerRole(
            spec.role, spec.model, client, server, spec.max_model_len or self.context_window, self._full
        )

    def _elsewhere(
        self, role: Literal["student", "teacher"], model: str, url: str, window: int
    ) -> ServerRole:
        key = API_KEYS[role] if os.environ.get(API_KEYS[role]) else None
        endpoint = Endpoint(role=f"the {role}'s server", url=url, api_key_env=key)
        client = VLLMClient(endpoint, max_in_flight=self.fixed.slots)
        return ServerRole(role, model, client, None, window, self._full)

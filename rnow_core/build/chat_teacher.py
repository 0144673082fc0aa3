"""The teacher of `rnow generate`: a chat endpoint, or a local model that is started for the job.

The only place that knows what is behind the teacher's `ask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from rnow_core.build.engine import Progress
from rnow_core.build.gpu_share import ALONE, SERVER_OVERHEAD
from rnow_core.build.placement import EngineName, Parallel
from rnow_core.build.roles import tensor_parallel
from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import Format
from rnow_core.errors import EnvironmentMissing, RnowError, RunFailed
from rnow_core.models.chat_http import ChatAnswer, ChatRequest
from rnow_core.models.extras import require_training_packages
from rnow_core.models.seams import Sampler
from rnow_core.models.vllm_http import ServerError
from rnow_core.rollout.sampled_teacher import SampledTeacher
from rnow_core.types import Message

CACHE_SHARE = 0.85
"""Of the memory that the weights leave, how much the cache of a model in this process may take."""

GOES_ON = "the same command goes on from here"


class LocalSampler(Protocol):
    """Weights that are loaded by `start`, and answer as a `Sampler` from then on."""

    async def start(self, progress: Progress) -> Sampler:
        """Load them."""
        ...

    async def close(self) -> None:
        """End whatever was started."""
        ...


@dataclass(frozen=True)
class LocalPlan:
    """How a local teacher is run. Bytes are of one GPU, or of the machine where there is none.

    `path` is a folder or hub id, `parameters` its weights, `token_bytes` one cached token, `window` what the model
    was made for. `at_once`: conversations that are sampled side by side.
    """

    path: str
    engine: EngineName
    parameters: int
    token_bytes: int
    window: int
    at_once: int
    gpus: int
    memory: int
    log: Path

    @property
    def width(self) -> int:
        """Bytes of a weight: bf16 on a GPU, float32 on a CPU."""
        return 2 if self.gpus else 4

    @property
    def parallel(self) -> Parallel:
        """The server on all visible GPUs: cut as far as the weights need it, copies of it on the rest."""
        cut = tensor_parallel(self.parameters * self.width, self.memory) if self.gpus else 1
        if cut > max(1, self.gpus):
            raise RnowError(
                f"{self.path} has {self.parameters * self.width / 2**30:.0f} GiB of weights, and the {self.gpus} "
                f"GPU(s) here have {self.memory / 2**30:.0f} GiB each",
                "use a smaller or quantized teacher, or a server elsewhere: --base-url",
            )
        copies = max(1, self.gpus // cut)
        return Parallel(tuple(range(cut * copies)) if self.gpus else (), cut, copies)

    @property
    def cache_tokens(self) -> int:
        """Tokens for which the memory has room behind the weights."""
        weights = self.parameters * self.width
        if self.engine == "hf":
            free = int((self.memory - weights) * CACHE_SHARE)
        elif self.gpus:
            free = int(ALONE * self.memory * self.parallel.tensor) - weights - SERVER_OVERHEAD
        else:
            free = 2**30  # what a vLLM server on the CPU is given
        return max(0, free // self.token_bytes)

    def usable_window(self, max_tokens: int) -> int:
        """Tokens of one conversation. RnowError when memory has no room for a reply of `max_tokens`."""
        window = min(self.window, self.cache_tokens)
        if window <= max_tokens and window < self.window:
            raise RnowError(
                f"{self.path}: memory has room for a conversation of {window} tokens beside the weights, and a "
                f"reply alone may have {max_tokens}",
                "lower --max-tokens, use a smaller teacher, or a server elsewhere: --base-url",
            )
        return window


def choose_engine(wanted: Literal["hf", "vllm"] | None, gpus: int) -> EngineName:
    """The engine that was asked for, else vLLM where it is installed and a GPU is there.

    Raises EnvironmentMissing, naming the extra, when its packages are not installed.
    """
    engine = wanted or ("vllm" if gpus and find_spec("vllm") is not None else "hf")
    if engine == "vllm" and find_spec("vllm") is None:
        raise EnvironmentMissing(
            "--engine vllm: vLLM is not installed here", 'pip install "rnow-distill[vllm]", or --engine hf'
        )
    if engine == "hf":
        require_training_packages()
    return engine


class LocalTeacher:
    """A local model as a chat teacher. Nothing is loaded before `start`."""

    def __init__(self, plan: LocalPlan, renderer: Renderer, form: Format | None, window: int) -> None:
        self._renderer, self._form, self._window = renderer, form, window
        self._model: LocalSampler = _HFModel(plan) if plan.engine == "hf" else _VLLMModel(plan, window)
        self._teacher: SampledTeacher | None = None

    async def start(self, progress: Progress) -> None:
        """Load the model, or start its server and wait for it."""
        sampler = await self._model.start(progress)
        self._teacher = SampledTeacher(self._renderer, sampler, self._window, self._form)

    async def ask(
        self,
        request: ChatRequest,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        key: int = 0,
    ) -> ChatAnswer:
        """See `SampledTeacher.ask`."""
        assert self._teacher is not None, "start the teacher first"
        try:
            return await self._teacher.ask(request, messages, tools, key)
        except ServerError as error:
            raise RunFailed(error.message, f"look into the server's log; {GOES_ON}") from error

    async def close(self) -> None:
        """Free the sampler, and end the server or the thread."""
        try:
            if self._teacher is not None:
                await self._teacher.close()
        finally:
            await self._model.close()


class _HFModel:
    """A transformers model in this process, on the first GPU or the CPU."""

    def __init__(self, plan: LocalPlan) -> None:
        from rnow_core.models.device import DeviceThread, cpu_threads

        self._plan = plan
        self._thread = DeviceThread(cpu_threads(plan.parameters))

    async def start(self, progress: Progress) -> Sampler:
        from rnow_core.models.causal_lm import load_frozen
        from rnow_core.models.device import pick_device
        from rnow_core.models.hf_sampler import HFSampler

        device = pick_device()
        progress(0.0, f"loading {self._plan.path} ({device.type})")
        lm = await self._thread.run(load_frozen, self._plan.path, device=device)
        return HFSampler(
            lm,
            self._thread,
            version="teacher",
            max_slots=self._plan.at_once,
            kv_budget_tokens=self._plan.cache_tokens,
        )

    async def close(self) -> None:
        self._thread.close()


class _VLLMModel:
    """A vLLM server of this job on all visible GPUs, restarted when it dies."""

    def __init__(self, plan: LocalPlan, window: int) -> None:
        from rnow_core.build.servers import BASE
        from rnow_core.models.vllm_command import ServerSpec
        from rnow_core.models.vllm_http import Endpoint, VLLMClient
        from rnow_core.models.vllm_server import ManagedServer

        self._window = window
        parallel = plan.parallel
        self._server = ManagedServer(
            ServerSpec(
                role="teacher",
                model=plan.path,
                log_file=plan.log,
                name=BASE,
                max_model_len=window,
                dtype="auto" if plan.gpus else "float32",
                on_gpu=bool(plan.gpus),
                gpus=parallel.gpus,
                tensor_parallel=parallel.tensor,
                data_parallel=parallel.data,
                gpu_memory_utilization=ALONE,
            )
        )
        endpoint = Endpoint("the teacher's server", socket=self._server.socket)
        self._client = VLLMClient(endpoint, max_in_flight=plan.at_once, on_down=self._server.ensure)

    async def start(self, progress: Progress) -> Sampler:
        from rnow_core.models.vllm_sampler import VLLMSampler

        await self._server.start(progress)
        return VLLMSampler(self._client, context_window=self._window, base=self._server.spec.name)

    async def close(self) -> None:
        try:
            await self._client.close()
        finally:
            await self._server.stop()

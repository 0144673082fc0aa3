"""The command line and the environment of one vLLM server: pure functions of a `ServerSpec`.

The flags are those of `python -m vllm.entrypoints.openai.api_server`, which every vLLM build has (the `vllm` program
looks for a distribution of that name and is absent from the CPU build).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rnow_core.errors import EnvironmentMissing, UsageError

# vLLM's own list (vllm/config/lora.py, MaxLoRARanks): it refuses any other number.
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

MAX_LOGPROBS = 20
"""vLLM's own default of `--max-logprobs`."""

# A torchrun worker's variables would make vLLM join the trainer's process group.
_TORCHRUN = re.compile(
    r"^(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_.*|MASTER_ADDR|MASTER_PORT"
    r"|TORCHELASTIC_.*)$"
)
_SECRET = re.compile(r"(^|_)(TOKEN|KEY|APIKEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?|AUTH|COOKIE)(_|$)|_PAT$")
# vLLM's sleeping allocator and torch's expandable segments exclude each other.
_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server that rnow starts. Lengths are in tokens; `gpus` index what this process may see.

    `model` is a folder or a Hugging Face id, `name` what requests call its base weights. `lora_rank` is the largest
    rank that will be loaded, `lora_modules` the last names of the layers that adapters may change (`q_proj`, ...;
    empty: all that vLLM knows, the output head among them). None leaves a number to vLLM. `score_given` opens the
    route that scores given ids as one array; vLLM 0.32 has it, and only its GPU runner answers there.
    """

    role: Literal["student", "teacher"]
    model: str
    log_file: Path
    name: str = "base"
    enable_lora: bool = False
    lora_rank: int = 16
    lora_modules: tuple[str, ...] = ()
    max_loras: int = 2
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    max_logprobs: int = MAX_LOGPROBS
    score_given: bool = False
    prefix_caching: bool = True
    dtype: str = "auto"
    seed: int = 0
    on_gpu: bool = True
    gpus: tuple[int, ...] = ()
    tensor_parallel: int = 1
    data_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    sleep_mode: bool = False


def has_binary_scores() -> bool:
    """Whether the installed vLLM knows `--enable-scale-out`; looked up without importing it."""
    found = find_spec("vllm")
    return (
        found is not None and Path(found.origin or "").with_name("entrypoints").joinpath("scale_out").is_dir()
    )


def served_lora_rank(rank: int) -> int:
    """The smallest `--max-lora-rank` that vLLM accepts and that holds an adapter of this rank."""
    for served in LORA_RANKS:
        if rank <= served:
            return served
    raise UsageError(
        f"model.qlora_rank is {rank}; vLLM serves adapters up to rank {LORA_RANKS[-1]}",
        f"set model.qlora_rank to {LORA_RANKS[-1]} or less, or rollout.engine to hf",
    )


def served_max_logprobs(top: int) -> int:
    """The `--max-logprobs` of a server that is asked for the `top` most likely ids of a position (0: none)."""
    return max(MAX_LOGPROBS, top)


def server_command(spec: ServerSpec, socket: Path) -> list[str]:
    """The server's argument list; it listens on the Unix socket only."""
    # -P: a project's own `tools.py` or `queue.py` must not be imported in place of a library's.
    command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--uds", str(socket)]
    # The model folder's generation_config.json would otherwise change what is sampled.
    command += ["--model", spec.model, "--served-model-name", spec.name, "--generation-config", "vllm"]
    command += ["--dtype", spec.dtype, "--seed", str(spec.seed)]
    command += ["--logprobs-mode", "raw_logprobs", "--max-logprobs", str(spec.max_logprobs)]
    command += ["--enable-prefix-caching" if spec.prefix_caching else "--no-enable-prefix-caching"]
    command += ["--disable-uvicorn-access-log"]
    command += ["--enable-scale-out"] if spec.score_given else []
    return command + _sizes(spec) + _lora(spec) + _device(spec)


def _sizes(spec: ServerSpec) -> list[str]:
    sizes = {
        "--max-model-len": spec.max_model_len,
        "--max-num-batched-tokens": spec.max_num_batched_tokens,
        "--max-num-seqs": spec.max_num_seqs,
    }
    return [word for flag, size in sizes.items() if size is not None for word in (flag, str(size))]


def _lora(spec: ServerSpec) -> list[str]:
    if not spec.enable_lora:
        return []
    rank = str(served_lora_rank(spec.lora_rank))
    flags = ["--enable-lora", "--max-lora-rank", rank, "--max-loras", str(spec.max_loras)]
    # An output head prepared for adapters costs time in every step, and on the CPU prompt logprobs of several
    # sequences at once end the server.
    return [*flags, "--lora-target-modules", *spec.lora_modules] if spec.lora_modules else flags


def _device(spec: ServerSpec) -> list[str]:
    flags = ["--tensor-parallel-size", str(spec.tensor_parallel)]
    flags += ["--data-parallel-size", str(spec.data_parallel)]
    if not spec.on_gpu:
        # Compiling takes minutes on a CPU, and vLLM refuses --enable-sleep-mode there; its sleep route answers anyway.
        # A seeded request whose prompt is read in chunks ends the server there: CPU generators have no offset.
        return [*flags, "--enforce-eager", "--no-enable-chunked-prefill"]
    flags += ["--gpu-memory-utilization", str(spec.gpu_memory_utilization)]
    return [*flags, "--enable-sleep-mode"] if spec.sleep_mode else flags


def server_environment(spec: ServerSpec, base: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The server's environment: `base` without secrets and torchrun's variables, with what vLLM needs.

    `folder` is the server's private folder, where vLLM's processes talk to each other. A hub token is kept only for
    a model that comes from the hub.
    """
    local = Path(spec.model).is_dir()
    environment = {name: value for name, value in base.items() if _is_passed(name, spec, local)}
    environment["VLLM_RPC_BASE_PATH"] = str(folder)
    # Sleep, wake and weight updates are routes of the development mode; only this user can open the socket.
    environment["VLLM_SERVER_DEV_MODE"] = "1"
    environment["VLLM_NO_USAGE_STATS"] = "1"
    if spec.enable_lora:
        environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if local:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment | (_gpu_environment(spec, base) if spec.on_gpu else _cpu_environment(base))


def _is_passed(name: str, spec: ServerSpec, local: bool) -> bool:
    if _TORCHRUN.match(name) or (spec.sleep_mode and name in _ALLOCATOR):
        return False
    return not _SECRET.search(name.upper()) or (name in _HUB_TOKENS and not local)


def _cpu_environment(base: Mapping[str, str]) -> dict[str, str]:
    defaults = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {"CUDA_VISIBLE_DEVICES": ""} | {name: base.get(name, value) for name, value in defaults.items()}


def _gpu_environment(spec: ServerSpec, base: Mapping[str, str]) -> dict[str, str]:
    if not spec.gpus:
        return {}
    visible = [device.strip() for device in base.get("CUDA_VISIBLE_DEVICES", "").split(",") if device.strip()]
    if not visible:
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus))}
    if max(spec.gpus) >= len(visible):
        raise EnvironmentMissing(
            f"the {spec.role} server should use GPU {max(spec.gpus)}, but CUDA_VISIBLE_DEVICES={','.join(visible)} "
            f"shows {len(visible)} GPU(s), counted from 0",
            f"change resources.*_gpus to numbers below {len(visible)}, or CUDA_VISIBLE_DEVICES",
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[gpu] for gpu in spec.gpus)}

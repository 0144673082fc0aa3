"""What is chosen once, when a run starts, and stored with it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from rnow_core.config.schema import Config
from rnow_core.models.device import cpu_threads, pick_device
from rnow_core.models.microbatch import token_budget

SLOTS_AT_LEAST = 256
"""Rows that are decoded at once, as far as the cache has room: evaluations have more of them than small steps."""


@dataclass(frozen=True)
class Fixed:
    """Engine, device and sizes; a resumed run computes with the same."""

    engine: Literal["hf", "vllm"]
    device: str
    threads: int
    micro_batch_tokens: int
    gradient_checkpointing: bool
    kv_tokens: int
    slots: int


def choose_fixed(config: Config, kv_tokens: int, parameters: int) -> Fixed:
    """The sizes of a new run on this machine.

    `kv_tokens` is what the plan gives the sampler's cache, `parameters` the size of the larger model.
    """
    device = pick_device()
    wanted = config.trainer.gradient_checkpointing
    return Fixed(
        engine=choose_engine(config, device.type),
        device=str(device),
        threads=cpu_threads(parameters),
        micro_batch_tokens=token_budget(config.trainer.micro_batch_tokens, device.type),
        gradient_checkpointing=device.type == "cuda" if wanted == "auto" else wanted,
        kv_tokens=kv_tokens,
        slots=max(SLOTS_AT_LEAST, config.data.batch_size * config.data.group_size),
    )


def choose_engine(config: Config, device_type: str) -> Literal["hf", "vllm"]:
    """`auto` is vllm for servers elsewhere, and where it is importable, a GPU is there and the student is an adapter."""
    wanted = config.rollout.engine
    if wanted != "auto":
        return wanted
    if config.rollout.url or any(teacher.url for teacher in config.teacher):
        return "vllm"
    fits = device_type == "cuda" and find_spec("vllm") is not None and config.model.qlora_rank > 0
    return "vllm" if fits else "hf"


def samples_plainly(config: Config) -> bool:
    """True when the student is sampled as it is: only then do sampler and learner logprobs name one policy."""
    return config.rollout.temperature == 1.0 and config.rollout.top_p == 1.0


def model_path(path: str, project_dir: Path) -> str:
    """A folder as an absolute path, a hub id as it is."""
    folder = (project_dir / Path(path).expanduser()).resolve()
    return str(folder) if folder.is_dir() else path

"""What is chosen once, when a run starts, and stored with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnow_core.build.placement import EngineName, Placement
from rnow_core.config.schema import Config
from rnow_core.errors import EnvironmentMissing
from rnow_core.models.device import cpu_threads, pick_device
from rnow_core.models.microbatch import token_budget

SLOTS_AT_LEAST = 256
"""Rows that are decoded at once, as far as the cache has room: evaluations have more of them than small steps."""


@dataclass(frozen=True)
class Fixed:
    """Engine, device, sizes and placement; a resumed run computes with the same."""

    engine: EngineName
    device: str
    threads: int
    micro_batch_tokens: int
    gradient_checkpointing: bool
    kv_tokens: int
    slots: int
    placement: Placement

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Fixed:
        """What `dataclasses.asdict` made of it, read back from a run's config.json."""
        return cls(**{**data, "placement": Placement.stored(data["placement"])})


def choose_fixed(config: Config, plan: Mapping[str, Any]) -> Fixed:
    """The sizes of a new run on this machine, from its preflight's plan.

    Raises:
        EnvironmentMissing: the plan counts on a GPU that torch cannot use.
    """
    placement = Placement.stored(plan["placement"])
    device = _trainer_device(placement)
    wanted = config.trainer.gradient_checkpointing
    larger = max(plan["student_parameters"], plan["teacher_parameters"] or 0)
    return Fixed(
        engine=plan["engine"],
        device=device,
        threads=max(1, cpu_threads(larger) // placement.ranks),
        micro_batch_tokens=token_budget(config.trainer.micro_batch_tokens, device.split(":")[0]),
        gradient_checkpointing=device != "cpu" if wanted == "auto" else wanted,
        kv_tokens=plan["kv_tokens"],
        slots=max(SLOTS_AT_LEAST, config.data.batch_size * config.data.group_size),
        placement=placement,
    )


def _trainer_device(placement: Placement) -> str:
    """`cpu`, or the first of the trainer's GPUs."""
    usable = pick_device().type == "cuda"
    if not placement.trainer and usable:
        raise EnvironmentMissing(
            "torch can use a GPU here, but nvidia-smi, which the plan asks for its memory, does not show one",
            "put nvidia-smi on the PATH, or hide the GPU: CUDA_VISIBLE_DEVICES= rnow run",
        )
    if not placement.trainer:
        return "cpu"
    if not usable:
        raise EnvironmentMissing(
            "this machine has a GPU, and the installed torch cannot use it",
            "install torch's CUDA build (pip install torch), or hide the GPU: CUDA_VISIBLE_DEVICES= rnow run",
        )
    return f"cuda:{placement.trainer[0]}"


def samples_plainly(config: Config) -> bool:
    """True when the student is sampled as it is: only then do sampler and learner logprobs name one policy."""
    return config.rollout.temperature == 1.0 and config.rollout.top_p == 1.0


def model_path(path: str, project_dir: Path) -> str:
    """A folder as an absolute path, a hub id as it is."""
    folder = (project_dir / Path(path).expanduser()).resolve()
    return str(folder) if folder.is_dir() else path

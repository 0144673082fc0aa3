"""Which GPU does what, and what happens where two roles meet on one: decided once, with the reasons.

Pure functions of config, machine and sizes, so that `validate` prints what `run` does. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

from rnow_core.build.gpu_share import (
    ALL,
    SERVER_OVERHEAD,
    Needs,
    Shares,
    alone,
    asleep_in_turns,
    side_by_side,
)
from rnow_core.build.roles import Roles, assign_roles, tensor_parallel
from rnow_core.config.machine import ResourcesConfig
from rnow_core.config.schema import Config
from rnow_core.errors import UsageError

EngineName = Literal["hf", "vllm"]
Sharing = Literal["apart", "split", "sleep"]


@dataclass(frozen=True)
class Parallel:
    """GPUs of a role (empty: the CPU, or nothing to place), and how a server uses them."""

    gpus: tuple[int, ...] = ()
    tensor: int = 1
    data: int = 1


NOWHERE = Parallel()


@dataclass(frozen=True)
class Placement:
    """Roles on GPUs. `shares` are parts of a GPU's memory for the servers; `ranks` counts data-parallel learners.

    `sharing`: the trainer has GPUs of its own (or there are none: `apart`), or shares one with the servers, by a
    split of its memory or in turns, each asleep while the other works.
    """

    inference: Parallel = NOWHERE
    teacher: Parallel = NOWHERE
    trainer: tuple[int, ...] = ()
    ranks: int = 1
    sharing: Sharing = "apart"
    shares: Shares = ALL
    async_level: int = 0
    reasons: tuple[str, ...] = ()

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Placement:
        """What `dataclasses.asdict` made of a placement, read back from JSON."""
        return cls(
            **{
                **data,
                "inference": _parallel(data["inference"]),
                "teacher": _parallel(data["teacher"]),
                "trainer": tuple(data["trainer"]),
                "shares": Shares(**data["shares"]),
                "reasons": tuple(data["reasons"]),
            }
        )


def place_trainer(config: Config, gpus: int) -> Placement:
    """Training alone, as `sft` does: on the GPUs that the config names or on all, at most one a conversation.

    Raises:
        UsageError: the config asks for GPUs that are not there, or for what only sampling and scoring need.
    """
    resources = config.resources
    if resources.inference_gpus or resources.teacher_gpus:
        raise UsageError(
            "resources.inference_gpus and teacher_gpus place vLLM servers, and dataset_type: sft starts none",
            "leave them out; resources.trainer_gpus says where to train",
        )
    _require_gpus(resources.trainer_gpus or [], gpus)
    trainer = tuple(resources.trainer_gpus or range(min(gpus, config.data.batch_size)))
    where = f"GPU {', '.join(map(str, trainer))}" if trainer else "the CPU"
    ranks = _ranks(resources.trainer_data_parallel, len(trainer))
    return Placement(trainer=trainer, ranks=ranks, reasons=(f"training alone, on {where}",))


def _require_gpus(numbers: Iterable[int], gpus: int) -> None:
    """UsageError for GPU numbers that this machine does not have."""
    beyond = sorted({gpu for gpu in numbers if gpu >= gpus})
    if beyond:
        have = f"{gpus} GPU(s), numbered from 0" if gpus else "no GPU"
        raise UsageError(
            f"resources asks for GPU {', '.join(map(str, beyond))}, and this machine has {have}",
            "correct resources.*_gpus, or check the project on the machine that will run it",
        )


def engine_of(config: Config, has_gpu: bool) -> EngineName:
    """`auto` is vllm for servers elsewhere, and where it is importable and a GPU is there."""
    if config.rollout.engine != "auto":
        return config.rollout.engine
    if config.rollout.url or any(teacher.url for teacher in config.teacher):
        return "vllm"
    return "vllm" if has_gpu and find_spec("vllm") is not None else "hf"


def place(config: Config, engine: EngineName, gpus: int, needs: Needs) -> Placement:
    """Put the roles of a run on this machine's GPUs, numbered from 0 among those that are visible.

    Raises:
        UsageError: the config asks for GPUs that are not there, or for roles that cannot share as written.
    """
    resources = config.resources
    named = [n for n in (resources.inference_gpus, resources.teacher_gpus, resources.trainer_gpus) if n]
    _require_gpus((gpu for numbers in named for gpu in numbers), gpus)
    if config.trainer.async_level == 1 and config.model.qlora_rank == 0:
        raise UsageError(
            "trainer.async_level: 1 needs two versions of the student on the server, and full fine-tuning has one",
            "train an adapter (model.qlora_rank), or set async_level: 0",
        )
    if engine == "hf" or not gpus:
        return _one_process(config, engine, gpus)
    return _served(config, assign_roles(config, gpus, needs), needs)


def server_memory(placement: Placement, needs: Needs) -> dict[str, dict[str, int]]:
    """Bytes that each placed server is `given` on its GPUs, and the `least` that it needs for one conversation."""
    cache = needs.token_bytes * needs.longest
    roles = (
        ("student", placement.inference, placement.shares.student, needs.student_weights),
        ("teacher", placement.teacher, placement.shares.teacher, needs.teacher_weights),
    )
    return {
        name: {
            "given": int(share * needs.gpu_memory * role.tensor),
            "least": weights + SERVER_OVERHEAD // 2 + cache,
        }
        for name, role, share, weights in roles
        if role.gpus
    }


def _one_process(config: Config, engine: EngineName, gpus: int) -> Placement:
    """Everything in the run's own process, or servers and trainer on the CPU."""
    resources = config.resources
    if engine == "hf" and (resources.inference_gpus or resources.teacher_gpus):
        raise UsageError(
            "resources.inference_gpus and teacher_gpus place vLLM servers, and this run samples with transformers",
            "install rnow-distill[vllm] and set rollout.engine: vllm, or leave them out",
        )
    trainer = tuple(resources.trainer_gpus or ([0] if gpus else []))
    if config.trainer.async_level == 1 and engine == "hf":
        raise UsageError(
            "trainer.async_level: 1 needs a sampler that works beside the learner, and transformers shares its thread",
            "set rollout.engine: vllm, or async_level: 0",
        )
    device = f"GPU {trainer[0]}" if trainer else "the CPU"
    reason = f"transformers samples, scores and trains on {device}"
    if engine == "vllm":
        reason = "no GPU: the servers and the trainer share the CPU"
    return Placement(
        trainer=trainer,
        ranks=_ranks(resources.trainer_data_parallel, len(trainer)),
        async_level=_level(config, apart=False),
        reasons=(reason,),
    )


def _served(config: Config, roles: Roles, needs: Needs) -> Placement:
    """Servers on GPUs, and what happens where the trainer meets one of them."""
    servers, trainer = {*roles.inference, *roles.teacher}, set(roles.trainer)
    base = Placement(
        inference=_cut("inference", roles.inference, config.resources, needs.student_weights, needs),
        teacher=_cut("teacher", roles.teacher, config.resources, needs.teacher_weights, needs),
        trainer=tuple(roles.trainer),
        ranks=_ranks(config.resources.trainer_data_parallel, len(trainer)),
        reasons=tuple(roles.reasons),
    )
    if not servers & trainer:
        shares, why = alone(needs, together=bool({*roles.inference} & {*roles.teacher}))
        level = _level(config, apart=True)
        overlap = (
            ("the next step is sampled while this one trains (trainer.async_level: 1)",) if level else ()
        )
        return replace(base, shares=shares, async_level=level, reasons=(*base.reasons, why, *overlap))
    if len(servers | trainer) > 1:
        both = ", ".join(map(str, sorted(servers & trainer)))
        raise UsageError(
            f"GPU {both} should train and serve, and other GPUs have a role as well",
            "give the trainer GPUs of its own, or put every role on the same single GPU",
        )
    return _one_gpu(config, base, needs)


def _one_gpu(config: Config, base: Placement, needs: Needs) -> Placement:
    """Everything on one GPU: at once if it fits, else in turns."""
    split = side_by_side(needs)
    if split is not None:
        shares, why = split
        level = _level(config, apart=False)
        return replace(base, sharing="split", shares=shares, async_level=level, reasons=(why,))
    if config.trainer.async_level == 1:
        raise UsageError(
            "trainer.async_level: 1 needs servers and trainer in the GPU's memory at once, and they do not fit",
            "set async_level: 0, lower trainer.micro_batch_tokens or rollout.max_tokens, or use a second GPU",
        )
    shares, why = asleep_in_turns(needs)
    return replace(base, sharing="sleep", shares=shares, reasons=(why,))


def _cut(
    name: Literal["inference", "teacher"],
    gpus: list[int],
    resources: ResourcesConfig,
    weights: int,
    needs: Needs,
) -> Parallel:
    """How a server uses its GPUs: cut as far as the weights need it, copies of it on the rest."""
    if not gpus:
        return NOWHERE
    tensor: int | None = getattr(resources, f"{name}_tensor_parallel")
    data: int | None = getattr(resources, f"{name}_data_parallel")
    if tensor is None:
        tensor = len(gpus) // data if data else min(tensor_parallel(weights, needs.gpu_memory), len(gpus))
    if data is None:
        data = max(1, len(gpus) // tensor)
    if tensor * data != len(gpus):
        raise UsageError(
            f"resources: {name}_tensor_parallel x {name}_data_parallel is {tensor} x {data}, and the role has "
            f"{len(gpus)} GPU(s)",
            "the product must be the number of GPUs",
        )
    return Parallel(tuple(gpus), tensor, data)


def _ranks(wanted: int | None, gpus: int) -> int:
    """Data-parallel learners: one for each of the trainer's GPUs; on the CPU as many as are asked for."""
    if wanted is not None and gpus and wanted != gpus:
        raise UsageError(
            f"resources.trainer_data_parallel is {wanted}, and the trainer has {gpus} GPU(s)",
            "one rank takes one GPU: leave trainer_data_parallel out, or name as many GPUs",
        )
    return wanted or max(1, gpus)


def _level(config: Config, *, apart: bool) -> int:
    """`auto` overlaps where the trainer has GPUs of its own and versions are adapters that live side by side."""
    if config.trainer.async_level != "auto":
        return config.trainer.async_level
    return 1 if apart and config.model.qlora_rank > 0 else 0


def _parallel(data: Mapping[str, Any]) -> Parallel:
    return Parallel(tuple(data["gpus"]), data["tensor"], data["data"])

"""What the run will do, in numbers, before it does it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rnow_core.build.contexts import scores_here
from rnow_core.build.gpu_share import Needs
from rnow_core.build.placement import engine_of, place, server_memory
from rnow_core.config.schema import Config
from rnow_core.data.batches import PromptBatches
from rnow_core.errors import Finding
from rnow_core.preflight.machine import free_disk, gpu_memory, machine_memory
from rnow_core.preflight.memory import (
    Sizes,
    cache_bytes,
    cache_tokens,
    frozen_bytes,
    memory_plan,
    trained_parameters,
)
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.preflight.signals import signal_bytes
from rnow_core.types import Prompt

GIB = 2**30
CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Padded tokens of a micro-batch where the config leaves it open (models.microbatch has the reason)."""

SAVED_BYTES = 4 + 8
"""A trained parameter in a checkpoint: the weight and Adam's two moments, float32."""


@dataclass(frozen=True)
class Known:
    """What was read of a project: facts of the models, rows, and the tokens of each training prompt.

    `teacher` is None for `self` and for runs without one.
    """

    student: ModelFacts
    teacher: ModelFacts | None
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    prompt_tokens: Sequence[int]
    context_window: int
    context_tokens: int = 0
    """The most tokens that a teacher's context adds to a prompt."""


def make_plan(config: Config, known: Known, project_dir: Path) -> dict[str, Any]:
    """Rows, steps, tokens, memory and disk of the run as JSON-ready data; `memory` and `disk` are in bytes."""
    batches = PromptBatches(known.prompts, config.data.batch_size, config.seed)
    steps = batches.total_steps(config.trainer.num_epochs, config.trainer.max_steps)
    rollouts = min(config.data.batch_size, len(known.prompts)) * config.data.group_size
    parts = _memory(config, known, rollouts, project_dir)
    return {
        "rows": len(known.prompts),
        "held_out_rows": len(known.held_out),
        "steps": steps,
        "steps_per_epoch": batches.steps_per_epoch,
        "rollouts_per_step": rollouts,
        "max_tokens_per_step": rollouts * config.rollout.max_tokens,
        "prompt_tokens": {
            "mean": round(sum(known.prompt_tokens) / max(1, len(known.prompt_tokens)), 1),
            "max": max(known.prompt_tokens, default=0),
        },
        "context_window": known.context_window,
        **({"teacher_context_tokens": known.context_tokens} if known.context_tokens else {}),
        "student_parameters": known.student.parameters,
        "teacher_parameters": known.teacher.parameters if known.teacher else None,
        "trained_parameters": trained_parameters(known.student, config.model.qlora_rank),
        **parts,
        **disk_plan(config, known.student, steps, project_dir, parts),
    }


def longest_conversation(prompt_tokens: Sequence[int], max_tokens: int, context_window: int) -> int:
    """Tokens of the longest prompt with the longest reply, as far as the window lets it."""
    return min(max(prompt_tokens, default=0) + max_tokens, context_window)


def _memory(config: Config, known: Known, rollouts: int, project_dir: Path) -> dict[str, Any]:
    """Engine, device, cache and bytes of the process that trains, and where the roles go."""
    longest = longest_conversation(known.prompt_tokens, config.rollout.max_tokens, known.context_window)
    gpus = gpu_memory()
    engine = engine_of(config, bool(gpus))
    served = engine == "vllm"
    here = not served or any(scores_here(teacher, project_dir) for teacher in config.teacher)
    sizes = sizes_of(config, bool(gpus), longest, known.context_tokens if here else 0)
    signal = signal_bytes(
        config, known.teacher or known.student, rollouts * config.rollout.max_tokens, sizes.width
    )
    available = min(gpus) if gpus else machine_memory()
    local_teacher = None if served else known.teacher
    kv_tokens = 0
    if not served:
        least = longest + known.context_tokens
        kv_tokens = cache_tokens(
            known.student,
            known.teacher,
            sizes,
            available if gpus else available - signal,
            wanted=rollouts * longest,
            least=least,
        )
    memory = memory_plan(known.student, local_teacher, sizes, kv_tokens)
    if signal and not gpus:
        memory |= {"teacher_signal": signal, "total": memory["total"] + signal}
    needs = Needs(
        gpu_memory=available,
        student_weights=known.student.parameters * sizes.width,
        teacher_weights=known.teacher.parameters * sizes.width if known.teacher else 0,
        trainer_resident=memory["student_weights"] + memory["training"],
        trainer_peak=memory["total"],
        token_bytes=cache_bytes(known.student, None, sizes),
        step_tokens=rollouts * longest,
        longest=longest + known.context_tokens,
    )
    placement = place(config, engine, len(gpus), needs)
    return {
        "engine": engine,
        **({"teacher_scores_in": "this process" if here else "a server"} if config.teacher else {}),
        "device": "gpu" if gpus else "cpu",
        "placement": json.loads(json.dumps(asdict(placement))),
        "kv_tokens": kv_tokens,
        "memory": memory,
        **({"teacher_signal_bytes": signal} if signal else {}),
        "memory_available": available,
        "memory_of_servers": server_memory(placement, needs),
    }


def sizes_of(config: Config, on_gpu: bool, longest: int, prefix_tokens: int = 0) -> Sizes:
    """What the config says about memory.

    `longest`: tokens of the longest sequence that is trained; `prefix_tokens`: of a context that is scored here.
    """
    wanted = config.trainer.gradient_checkpointing
    tokens = config.trainer.micro_batch_tokens or (GPU_TOKENS if on_gpu else CPU_TOKENS)
    return Sizes(
        rank=config.model.qlora_rank,
        on_gpu=on_gpu,
        micro_batch_tokens=max(tokens, longest),
        checkpointing=on_gpu if wanted == "auto" else wanted,
        quantized=config.model.quantization is not None,
        teacher_quantized=any(teacher.quantization is not None for teacher in config.teacher),
        averaged=any(teacher.ema is not None for teacher in config.teacher),
        prefix_tokens=prefix_tokens,
    )


BEST_AT_ONCE = 2
"""The best checkpoint so far, and for a moment the one before it."""


def disk_plan(
    config: Config, student: ModelFacts, steps: int, project_dir: Path, parts: Mapping[str, Any]
) -> dict[str, Any]:
    """Checkpoints of the run, their bytes, what is free for them, and the base that a server needs under nf4.

    `parts`: the plan's engine and device.
    """
    every = config.trainer.save_step
    between = (steps - 1) // every if every > 0 else 0
    evaluated = config.trainer.eval_step
    only_best = evaluated is not None and (every < 1 or evaluated % every > 0)
    checkpoints = 2 + between + (BEST_AT_ONCE if only_best else 0)
    one = SAVED_BYTES * trained_parameters(student, config.model.qlora_rank)
    written = config.model.quantization is not None and parts["engine"] == "vllm"
    base = frozen_bytes(student, 2 if parts["device"] == "gpu" else 4, False) if written else 0
    return {
        "checkpoints": checkpoints,
        "disk": {
            "checkpoint": one,
            **({"served_base": base} if base else {}),
            "total": checkpoints * one + base,
        },
        "disk_available": free_disk(project_dir / "runs"),
    }


SMALLER = "lower trainer.micro_batch_tokens, rollout.max_tokens or data.group_size, or use smaller models"


def memory_finding(plan: dict[str, Any], hint: str = SMALLER) -> list[Finding]:
    """RN410 (warning) when the estimate does not fit into the machine; `hint` says what makes it smaller."""
    need, have = plan["memory"]["total"], plan["memory_available"]
    if need <= have:
        return []
    largest = max((name for name in plan["memory"] if name != "total"), key=lambda name: plan["memory"][name])
    message = (
        f"the run needs about {need / GIB:.1f} GiB of memory, and the {plan['device']} has {have / GIB:.1f} GiB; "
        f"the largest part is {largest} ({plan['memory'][largest] / GIB:.1f} GiB)"
    )
    return [Finding("RN410", "warning", message, hint)]


def server_findings(plan: dict[str, Any]) -> list[Finding]:
    """RN412 (error) for a server whose share of its GPUs does not hold its weights and one conversation."""
    return [
        Finding(
            "RN412",
            "error",
            f"the {role}'s server needs at least {memory['least'] / GIB:.1f} GiB of its GPU(s), and gets "
            f"{memory['given'] / GIB:.1f} GiB",
            "use smaller models, a shorter rollout.max_context_window, or more GPUs (resources)",
            path="resources",
        )
        for role, memory in plan["memory_of_servers"].items()
        if memory["given"] < memory["least"]
    ]


LONG_CONTEXT = 256


def context_finding(plan: dict[str, Any]) -> list[Finding]:
    """RN266 (information): a server computes a teacher's long context again for every rollout."""
    tokens = plan.get("teacher_context_tokens", 0)
    if plan.get("teacher_scores_in") != "a server" or tokens < LONG_CONTEXT:
        return []
    message = (
        f"a server computes the teacher's context of up to {tokens} tokens anew for each rollout, up to "
        f"{tokens * plan['rollouts_per_step']} tokens a step: its prefix cache does not serve scoring"
    )
    hint = "prefer the teacher in this process (rollout.engine: hf) for small models, or shorten the context"
    return [Finding("RN266", "info", message, hint, path="teacher.context")]


def disk_finding(plan: dict[str, Any], project_dir: Path) -> list[Finding]:
    """RN411 (warning) when the checkpoints will not fit on the disk."""
    need, have = plan["disk"]["total"], plan["disk_available"]
    if need <= have:
        return []
    base = plan["disk"].get("served_base")
    also = f" and the dequantised student ({base / GIB:.2f} GiB)" if base else ""
    message = (
        f"{plan['checkpoints']} checkpoints of {plan['disk']['checkpoint'] / GIB:.2f} GiB each{also} need "
        f"{need / GIB:.2f} GiB, and {have / GIB:.2f} GiB are free under {project_dir / 'runs'}"
    )
    hint = "free space, or raise trainer.save_step (-1 saves at the end only)"
    return [Finding("RN411", "warning", message, hint, path="trainer.save_step")]

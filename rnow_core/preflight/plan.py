"""What the run will do, in numbers, before it does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnow_core.config.schema import Config
from rnow_core.data.batches import PromptBatches
from rnow_core.errors import Finding
from rnow_core.preflight.memory import Sizes, available_memory, cache_tokens, memory_plan
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.types import Prompt

GIB = 2**30
CPU_TOKENS, GPU_TOKENS = 8192, 16384
"""Padded tokens of a micro-batch where the config leaves it open (models.microbatch has the reason)."""


def make_plan(
    config: Config,
    student: ModelFacts,
    teacher: ModelFacts | None,
    prompts: Sequence[Prompt],
    prompt_tokens: Sequence[int],
    context_window: int,
) -> dict[str, Any]:
    """Rows, steps, tokens and memory of the run as JSON-ready data.

    Args:
        config: the run's config.
        student: facts of the student.
        teacher: facts of the teacher; None for `self` or no teacher.
        prompts: training rows.
        prompt_tokens: tokens of each training prompt.
        context_window: tokens of a whole conversation.
    """
    batches = PromptBatches(prompts, config.data.batch_size, config.seed)
    steps = batches.total_steps(config.trainer.num_epochs, config.trainer.max_steps)
    rollouts = min(config.data.batch_size, len(prompts)) * config.data.group_size
    longest = min(max(prompt_tokens, default=0) + config.rollout.max_tokens, context_window)
    available, on_gpu = available_memory()
    sizes = Sizes(
        rank=config.model.qlora_rank,
        on_gpu=on_gpu,
        micro_batch_tokens=max(
            config.trainer.micro_batch_tokens or (GPU_TOKENS if on_gpu else CPU_TOKENS), longest
        ),
        checkpointing=config.trainer.gradient_checkpointing is True
        or (config.trainer.gradient_checkpointing == "auto" and on_gpu),
    )
    kv_tokens = cache_tokens(student, teacher, sizes, available, wanted=rollouts * longest, least=longest)
    return {
        "rows": len(prompts),
        "steps": steps,
        "steps_per_epoch": batches.steps_per_epoch,
        "rollouts_per_step": rollouts,
        "prompt_tokens": {
            "mean": round(sum(prompt_tokens) / max(1, len(prompt_tokens)), 1),
            "max": max(prompt_tokens, default=0),
        },
        "max_tokens_per_step": rollouts * config.rollout.max_tokens,
        "context_window": context_window,
        "kv_tokens": kv_tokens,
        "student_parameters": student.parameters,
        "teacher_parameters": teacher.parameters if teacher else None,
        "device": "gpu" if on_gpu else "cpu",
        "memory_available": available,
        "memory": memory_plan(student, teacher, sizes, kv_tokens),
    }


def memory_finding(plan: dict[str, Any]) -> list[Finding]:
    """RN410 (warning) when the estimate does not fit into the machine."""
    need, have = plan["memory"]["total"], plan["memory_available"]
    if need <= have:
        return []
    largest = max((name for name in plan["memory"] if name != "total"), key=lambda name: plan["memory"][name])
    return [
        Finding(
            "RN410",
            "warning",
            f"the run needs about {need / GIB:.1f} GiB, and the {plan['device']} has {have / GIB:.1f} GiB; "
            f"the largest part is {largest}",
            "lower trainer.micro_batch_tokens, rollout.max_tokens or data.group_size, or use smaller models",
        )
    ]

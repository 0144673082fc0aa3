"""What a run of `sft` will do, in numbers, before it does it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rnow_core.build.gpu_share import Needs
from rnow_core.build.placement import place, place_trainer, server_memory
from rnow_core.config.schema import Config
from rnow_core.data.batches import PromptBatches
from rnow_core.preflight.machine import gpu_memory, machine_memory
from rnow_core.preflight.memory import cache_bytes, cache_tokens, memory_plan, trained_parameters
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.preflight.plan import disk_plan, longest_conversation, sizes_of
from rnow_core.types import Prompt

HERE = "transformers samples held-out replies with the learner's weights"


@dataclass(frozen=True)
class Measured:
    """A project's conversations: training and held-out rows, tokens and trained tokens of each training row, and
    the longest of all. `asked`: the tokens of each held-out prompt that the student answers; empty for none.
    """

    student: ModelFacts
    rows: Sequence[Prompt]
    held_out: Sequence[Prompt]
    tokens: Sequence[int]
    trained_tokens: Sequence[int]
    longest: int
    context_window: int
    asked: Sequence[int] = ()


def make_training_plan(config: Config, known: Measured, project_dir: Path) -> dict[str, Any]:
    """Rows, steps, tokens, memory and disk of the run as JSON-ready data; `memory` and `disk` are in bytes.

    Raises:
        UsageError: the config's resources do not fit this machine.
    """
    batches = PromptBatches(known.rows, config.data.batch_size, config.seed)
    steps = batches.total_steps(config.trainer.num_epochs, config.trainer.max_steps)
    parts = _parts(config, known)
    sampled = {"replies_per_evaluation": len(known.asked) * config.eval.group_size} if known.asked else {}
    return {
        "rows": len(known.rows),
        "held_out_rows": len(known.held_out),
        "steps": steps,
        "steps_per_epoch": batches.steps_per_epoch,
        "conversation_tokens": {
            "mean": round(sum(known.tokens) / max(1, len(known.tokens)), 1),
            "max": max(known.tokens, default=0),
        },
        "epoch_tokens": {"total": sum(known.tokens), "trained": sum(known.trained_tokens)},
        "context_window": known.context_window,
        "student_parameters": known.student.parameters,
        "teacher_parameters": None,
        "trained_parameters": trained_parameters(known.student, config.model.qlora_rank),
        **sampled,
        **parts,
        **disk_plan(config, known.student, steps, project_dir, parts),
    }


def _parts(config: Config, known: Measured) -> dict[str, Any]:
    """Engine, device, cache and bytes of the process that trains, and where it trains.

    Training is what this run is for: an engine of its own takes memory or GPUs from it only where the config names
    one.
    """
    gpus = gpu_memory()
    available = min(gpus) if gpus else machine_memory()
    sizes = sizes_of(config, bool(gpus), known.longest)
    served = bool(known.asked) and (config.rollout.engine == "vllm" or bool(config.rollout.url))
    reply = config.eval.max_tokens or config.rollout.max_tokens
    longest = longest_conversation(known.asked, reply, known.context_window)
    together = min(config.eval.batch_size or len(known.asked), len(known.asked)) * config.eval.group_size
    kv_tokens = 0
    if known.asked and not served:
        kv_tokens = cache_tokens(
            known.student, None, sizes, available, wanted=together * longest, least=longest
        )
    memory = memory_plan(known.student, None, sizes, kv_tokens)
    needs = Needs(
        gpu_memory=available,
        student_weights=known.student.parameters * sizes.width,
        teacher_weights=0,
        trainer_resident=memory["student_weights"] + memory["training"],
        trainer_peak=memory["total"],
        token_bytes=cache_bytes(known.student, None, sizes),
        step_tokens=together * longest,
        longest=longest,
    )
    if served:
        placement = place(config, "vllm", len(gpus), needs)
    else:
        placement = place_trainer(config, len(gpus))
        placement = replace(
            placement, reasons=(*placement.reasons, HERE) if known.asked else placement.reasons
        )
    unused = {"teacher_weights"} | ({"kv_cache"} if not kv_tokens else set())
    return {
        "engine": "vllm" if served else "hf",
        "device": "gpu" if gpus else "cpu",
        "placement": json.loads(json.dumps(asdict(placement))),
        "kv_tokens": kv_tokens,
        "memory": {name: size for name, size in memory.items() if name not in unused},
        "memory_available": available,
        "memory_of_servers": server_memory(placement, needs),
    }

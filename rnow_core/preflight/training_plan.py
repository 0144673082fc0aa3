"""What a run of `sft` will do, in numbers, before it does it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rnow_core.build.placement import place_trainer
from rnow_core.config.schema import Config
from rnow_core.data.batches import PromptBatches
from rnow_core.preflight.machine import gpu_memory, machine_memory
from rnow_core.preflight.memory import memory_plan, trained_parameters
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.preflight.plan import disk_plan, sizes_of
from rnow_core.types import Prompt

NOT_HERE = ("teacher_weights", "kv_cache")
"""Parts of a memory plan that a run without teacher and sampler does not have."""


@dataclass(frozen=True)
class Measured:
    """A project's conversations: training and held-out rows, tokens and trained tokens of each training row, and
    the longest of all.
    """

    student: ModelFacts
    rows: Sequence[Prompt]
    held_out: Sequence[Prompt]
    tokens: Sequence[int]
    trained_tokens: Sequence[int]
    longest: int
    context_window: int


def make_training_plan(config: Config, known: Measured, project_dir: Path) -> dict[str, Any]:
    """Rows, steps, tokens, memory and disk of the run as JSON-ready data; `memory` and `disk` are in bytes.

    Raises:
        UsageError: the config's resources do not fit this machine.
    """
    batches = PromptBatches(known.rows, config.data.batch_size, config.seed)
    steps = batches.total_steps(config.trainer.num_epochs, config.trainer.max_steps)
    gpus = gpu_memory()
    sizes = sizes_of(config, bool(gpus), known.longest)
    memory = memory_plan(known.student, None, sizes, 0)
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
        "engine": "hf",
        "device": "gpu" if gpus else "cpu",
        "placement": json.loads(json.dumps(asdict(place_trainer(config, len(gpus))))),
        "kv_tokens": 0,
        "memory": {name: size for name, size in memory.items() if name not in NOT_HERE},
        "memory_available": min(gpus) if gpus else machine_memory(),
        "memory_of_servers": {},
        **disk_plan(config, known.student, steps, project_dir),
    }

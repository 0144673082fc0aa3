"""How much memory the run will take, from sizes alone. Upper bounds for the large parts; small ones are left out."""

from __future__ import annotations

import os
import shutil
import subprocess

from rnow_core.preflight.model_facts import ModelFacts

ADAM_BYTES = 4 + 4 + 8
"""A trainable parameter in float32: the weight, its gradient, and Adam's two moments."""

ACTIVATION_FACTOR = 16
"""Activations that one decoder layer keeps for backward, in units of its hidden and feed-forward vectors."""


def memory_plan(
    student: ModelFacts,
    teacher: ModelFacts | None,
    *,
    rank: int,
    on_gpu: bool,
    micro_batch_tokens: int,
    kv_tokens: int,
    checkpointing: bool,
) -> dict[str, int]:
    """Bytes by purpose, and `total`.

    Args:
        student: facts of the student.
        teacher: facts of the teacher, or None when the student's base weights teach or there is no teacher.
        rank: LoRA rank, 0 for full fine-tuning.
        on_gpu: bf16 weights on a GPU, else float32.
        micro_batch_tokens: tokens in one forward with gradients.
        kv_tokens: tokens that the sampler's cache may hold.
        checkpointing: activations are recomputed, one layer at a time.
    """
    width = 2 if on_gpu else 4
    trained = student.parameters if rank == 0 else lora_parameters(student, rank)
    frozen_weights = 0 if rank == 0 else student.parameters * width
    per_layer = micro_batch_tokens * (student.hidden_size + student.intermediate_size) * width
    kept = student.layers * micro_batch_tokens * student.hidden_size * width
    activations = (
        kept + ACTIVATION_FACTOR * per_layer
        if checkpointing
        else (student.layers * ACTIVATION_FACTOR * per_layer)
    )
    plan = {
        "student weights": frozen_weights,
        "trained weights and optimizer": trained * ADAM_BYTES,
        "teacher weights": teacher.parameters * width if teacher else 0,
        "key-value cache": kv_tokens * student.layers * 2 * student.kv_heads * student.head_dim * width,
        "activations": activations,
    }
    return {**plan, "total": sum(plan.values())}


def lora_parameters(facts: ModelFacts, rank: int) -> int:
    """Weights of a LoRA adapter on every linear layer of the decoder: rank * (inputs + outputs) each."""
    hidden, inner = facts.hidden_size, facts.intermediate_size
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)
    return rank * facts.layers * (attention + 3 * (hidden + inner))


def available_memory() -> tuple[int, bool]:
    """Bytes of the first GPU if the driver shows one, else of the machine; and whether it is a GPU."""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        first = answer.stdout.split("\n")[0].strip()
        if answer.returncode == 0 and first.isdigit():
            return int(first) * 2**20, True
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), False

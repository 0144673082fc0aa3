"""How much memory the run will take, from sizes alone. Upper bounds for the large parts; small ones are left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rnow_core.preflight.model_facts import ModelFacts

ADAM_BYTES = 4 + 4 + 8
"""A trainable parameter in float32: the weight, its gradient, and Adam's two moments."""

AVERAGE_BYTES = 4
"""The moving average of a trainable parameter, float32."""

PREFIX_COPIES = 2
"""Of a teacher's context: alone, and in front of the prompt whose samples are being scored."""

NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""A weight in nf4: its code, its share of the 8-bit scale of 64 weights and of the float32 scale of 256 scales."""

ACTIVATION_FACTOR = 16
"""Activations that one decoder layer keeps for backward, in units of its hidden and feed-forward vectors."""


CACHE_SHARE = 0.85
"""Of the memory that nothing else needs, how much the sampler's cache may take."""

CACHE_TOKENS_AT_LEAST = 1 << 16
"""Evaluations have more rollouts at once than a step; for small models this room costs nothing."""


@dataclass(frozen=True)
class Sizes:
    """What the config says about memory. `micro_batch_tokens`: tokens in one forward with gradients.

    `quantized`, `teacher_quantized`: the frozen weights of the student and of a teacher in this process are in nf4.
    `averaged`: a moving average of the trained weights is kept. `prefix_tokens`: of a context whose keys and values a
    teacher in this process holds, once for all rows.
    """

    rank: int
    on_gpu: bool
    micro_batch_tokens: int
    checkpointing: bool
    quantized: bool = False
    teacher_quantized: bool = False
    averaged: bool = False
    prefix_tokens: int = 0

    @property
    def width(self) -> int:
        """Bytes of a frozen weight or an activation: bf16 on a GPU, float32 on a CPU."""
        return 2 if self.on_gpu else 4


def trained_parameters(student: ModelFacts, rank: int) -> int:
    """Weights that the optimizer owns: all with rank 0, else those of the adapter."""
    return student.parameters if rank == 0 else lora_parameters(student, rank)


def memory_plan(
    student: ModelFacts, teacher: ModelFacts | None, sizes: Sizes, kv_tokens: int
) -> dict[str, int]:
    """Bytes by purpose, and `total`; `training` is trained weights, gradients and optimizer.

    `teacher` is None when it has no weights of its own.
    """
    trained = trained_parameters(student, sizes.rank)
    plan = {
        "student_weights": 0 if sizes.rank == 0 else frozen_bytes(student, sizes.width, sizes.quantized),
        "training": trained * (ADAM_BYTES + (AVERAGE_BYTES if sizes.averaged else 0)),
        "teacher_weights": frozen_bytes(teacher, sizes.width, sizes.teacher_quantized) if teacher else 0,
        "kv_cache": (kv_tokens + PREFIX_COPIES * sizes.prefix_tokens) * cache_bytes(student, teacher, sizes),
        "activations": _activations(student, sizes),
    }
    return {**plan, "total": sum(plan.values())}


def frozen_bytes(facts: ModelFacts, width: int, quantized: bool) -> int:
    """Bytes of frozen weights of `width` bytes each; `quantized`: those of the decoder's linear layers are in nf4."""
    inside = linear_weights(facts) if quantized else 0
    return (facts.parameters - inside) * width + math.ceil(inside * NF4_BYTES)


def linear_weights(facts: ModelFacts) -> int:
    """Weights of the decoder's linear layers: attention and three feed-forward matrices, at most what there is."""
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    layer = 2 * facts.hidden_size * (queries + keys) + 3 * facts.hidden_size * facts.intermediate_size
    return min(facts.layers * layer, facts.parameters - facts.vocab_rows * facts.hidden_size)


def cache_tokens(
    student: ModelFacts, teacher: ModelFacts | None, sizes: Sizes, available: int, wanted: int, least: int
) -> int:
    """Tokens that the sampler's cache may hold: what a step wants, as far as memory is left; at least one row."""
    left = max(0, available - memory_plan(student, teacher, sizes, 0)["total"])
    affordable = int(left * CACHE_SHARE) // cache_bytes(student, teacher, sizes)
    return max(least, min(max(wanted, CACHE_TOKENS_AT_LEAST), affordable))


def cache_bytes(student: ModelFacts, teacher: ModelFacts | None, sizes: Sizes) -> int:
    """Bytes of one cached token: keys and values of all layers, of the larger model (both may sample)."""
    models = [student, teacher] if teacher else [student]
    return max(model.layers * 2 * model.kv_heads * model.head_dim * sizes.width for model in models)


def _activations(student: ModelFacts, sizes: Sizes) -> int:
    tokens = sizes.micro_batch_tokens * sizes.width
    layer = ACTIVATION_FACTOR * tokens * (student.hidden_size + student.intermediate_size)
    if sizes.checkpointing:
        return student.layers * tokens * student.hidden_size + layer
    return student.layers * layer


def lora_parameters(facts: ModelFacts, rank: int) -> int:
    """Weights of a LoRA adapter on every linear layer of the decoder: rank * (inputs + outputs) each."""
    hidden, inner = facts.hidden_size, facts.intermediate_size
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    attention = 2 * (hidden + queries) + 2 * (hidden + keys)
    return rank * facts.layers * (attention + 3 * (hidden + inner))

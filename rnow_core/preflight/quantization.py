"""Does nf4 fit a model, judged by its sizes."""

from __future__ import annotations

from rnow_core.build.placement import EngineName
from rnow_core.config.inputs import TeacherConfig
from rnow_core.errors import Finding
from rnow_core.preflight.memory import linear_weights
from rnow_core.preflight.model_facts import ModelFacts

BLOCK = 64
LEAST_SHARE = 0.5
"""As `rnow_core.models.quantized` has them, which needs torch."""


def check_teacher_quantization(
    teacher: TeacherConfig, facts: ModelFacts | None, engine: EngineName, section: str
) -> list[Finding]:
    """RN307 where a server would score, RN321 where nf4 does not fit; nothing for a teacher that does not ask for it.

    `section`: the config section of the teacher.
    """
    key = f"{section}.quantization"
    if teacher.quantization is None:
        return []
    if engine == "vllm":
        message = "this run scores on a vLLM server, which serves the teacher's weights as they are"
        hint = "set rollout.engine: hf, or leave teacher.quantization out"
        return [Finding("RN307", "error", message, hint, path=key)]
    return check_quantization(facts, key) if facts else []


def check_quantization(facts: ModelFacts, key: str) -> list[Finding]:
    """RN321 (error): layers whose inputs are no multiple of a block, or weights that are mostly not in linear layers.

    `key`: the config key that asks for nf4.
    """
    inputs = (facts.hidden_size, facts.heads * facts.head_dim, facts.intermediate_size)
    odd = [size for size in inputs if size % BLOCK]
    if odd:
        message = (
            f"nf4 needs layers whose inputs are a multiple of {BLOCK}; '{facts.path}' has some with {odd[0]}"
        )
        return [Finding("RN321", "error", message, f"leave {key} out", path=key)]
    rest = facts.parameters - 2 * facts.vocab_rows * facts.hidden_size  # embedding and head, tied or not
    if linear_weights(facts) < LEAST_SHARE * rest:
        message = (
            f"nf4 covers the linear layers, which hold only {linear_weights(facts) / rest:.0%} of the weights of "
            f"'{facts.path}' (experts of a mixture are no linear layers to bitsandbytes)"
        )
        return [Finding("RN321", "error", message, f"leave {key} out", path=key)]
    return []

"""Can this teacher score this student's tokens: same tokenizer, rows for every id, room for every sequence."""

from __future__ import annotations

from rnow_core.data.renderer import Renderer
from rnow_core.errors import Finding
from rnow_core.preflight.model_facts import ModelFacts


def check_tokenizers(student: Renderer, teacher: Renderer, key: str) -> list[Finding]:
    """RN310: the teacher's tokenizer is another one, so its logprobs would be of other words."""
    if student.fingerprint() == teacher.fingerprint():
        return []
    return [
        Finding(
            "RN310",
            "error",
            f"the teacher's tokenizer is not the student's ({_difference(student, teacher)})",
            "on-policy distillation needs one tokenizer: choose a teacher of the student's family, or distil "
            "off-policy from the teacher's text",
            path=key,
        )
    ]


def check_vocabulary(student: Renderer, teacher: ModelFacts, key: str) -> list[Finding]:
    """RN311: the teacher's head has fewer rows than the tokenizer has ids."""
    if teacher.vocab_rows >= student.vocab_size:
        return []
    return [
        Finding(
            "RN311",
            "error",
            f"the teacher's vocabulary has {teacher.vocab_rows} rows, but the tokenizer has {student.vocab_size} ids",
            "choose a teacher that was trained with this tokenizer",
            path=key,
        )
    ]


def check_window(teacher: ModelFacts, context_window: int, key: str) -> list[Finding]:
    """RN312: a conversation that the student may fill is longer than what the teacher can read."""
    if teacher.context_window >= context_window:
        return []
    return [
        Finding(
            "RN312",
            "error",
            f"the teacher reads {teacher.context_window} tokens, but a conversation may have {context_window}",
            f"set rollout.max_context_window: {teacher.context_window}",
            path=key,
        )
    ]


def _difference(student: Renderer, teacher: Renderer) -> str:
    if student.vocab_size != teacher.vocab_size:
        return f"{teacher.vocab_size} ids instead of {student.vocab_size}"
    return f"both have {student.vocab_size} ids, but they stand for different text"

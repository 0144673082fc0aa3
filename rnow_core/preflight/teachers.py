"""Can this teacher score this student's tokens: same tokenizer, rows for every id, room for every sequence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rnow_core.data.renderer import Renderer
from rnow_core.errors import Finding, RnowError
from rnow_core.preflight.model_facts import ModelFacts

PROBE: Sequence[Mapping[str, Any]] = ({"role": "user", "content": "question"},)


def check_tokenizers(student: Renderer, teacher: Renderer, key: str) -> list[Finding]:
    """RN310: the teacher's tokenizer is another one, so its logprobs would be of other words."""
    if student.fingerprint() == teacher.fingerprint():
        return []
    message = f"the teacher's tokenizer is not the student's: {_difference(student, teacher)}"
    hint = (
        "on-policy distillation needs one tokenizer: choose a teacher of the student's family, or distil "
        "off-policy from the teacher's text"
    )
    return [Finding("RN310", "error", message, hint, path=key)]


def _difference(student: Renderer, teacher: Renderer) -> str:
    """What is different, with the first id that means something else."""
    if student.vocab_size != teacher.vocab_size:
        return f"it has {teacher.vocab_size} ids, and the student's has {student.vocab_size}"
    for number in range(student.vocab_size):
        mine, other = student.decode([number]), teacher.decode([number])
        if mine != other:
            return (
                f"both have {student.vocab_size} ids, but id {number} is {other!r} for the teacher "
                f"and {mine!r} for the student"
            )
    return f"both have the same {student.vocab_size} ids, but cut text into them in different ways"


def check_vocabulary(student: Renderer, teacher: ModelFacts, key: str) -> list[Finding]:
    """RN311: the teacher's head has fewer rows than the tokenizer has ids. More rows are padding and fine."""
    if teacher.vocab_rows >= student.vocab_size:
        return []
    message = (
        f"the teacher has weights for {teacher.vocab_rows} ids, and the tokenizer has {student.vocab_size}"
    )
    return [
        Finding("RN311", "error", message, "choose a teacher that was trained with this tokenizer", path=key)
    ]


def check_window(teacher: ModelFacts, longest: int, key: str) -> list[Finding]:
    """RN312: the longest conversation that may come up does not fit into what the teacher reads."""
    if teacher.context_window >= longest:
        return []
    message = f"the teacher reads {teacher.context_window} tokens, and a conversation may have {longest}"
    hint = f"set rollout.max_context_window: {teacher.context_window}"
    return [Finding("RN312", "error", message, hint, path=key)]


def check_template(
    student: Renderer, teacher: Renderer, options: Mapping[str, Any], key: str
) -> list[Finding]:
    """RN313 (warning): the teacher's own template begins replies in another way than the student's, which it reads.

    That is how a thinking model and its variant without thinking differ. A teacher without a template is fine.
    """
    mine, other = _reply_start(student, options), _reply_start(teacher, options)
    if mine == other or not mine or not other:
        return []
    message = (
        f"replies begin behind {mine!r}, as the student's chat template writes it; the teacher's own template "
        f"ends a prompt with {other!r}"
    )
    hint = "the teacher scores the student's form: check rollout.reasoning_mode, or choose a teacher of that form"
    return [Finding("RN313", "warning", message, hint, path=key)]


def check_reasoning_mode(student: Renderer, options: Mapping[str, Any]) -> list[Finding]:
    """RN314 (warning): the student's template renders the same with and without `rollout.reasoning_mode`."""
    if not options or _render(student, options) != _render(student, {}):
        return []
    message = (
        f"no effect: the chat template of {os.path.basename(student.source)} does the same in every mode"
    )
    hint = "remove it, or choose a model whose template knows enable_thinking or reasoning_effort"
    return [Finding("RN314", "warning", message, hint, path="rollout.reasoning_mode")]


def check_end_of_turn(student: Renderer) -> list[Finding]:
    """RN315 (warning): nothing tells where a reply ends, so every rollout runs to max_tokens."""
    if student.stop_ids:
        return []
    message = "no token ends a reply: the chat template writes none, and the tokenizer has no eos token"
    hint = "every reply would run to rollout.max_tokens; use a chat model, or set eos_token in tokenizer_config.json"
    return [Finding("RN315", "warning", message, hint, path="model.path")]


def _render(renderer: Renderer, options: Mapping[str, Any]) -> str | None:
    try:
        return renderer.render([dict(message) for message in PROBE], **options)
    except RnowError:
        return None


def _reply_start(renderer: Renderer, options: Mapping[str, Any]) -> str | None:
    """What the template writes behind a conversation for the reply to begin; None when it refuses the probe."""
    whole = _render(renderer, options)
    if whole is None:
        return None
    history = renderer.render([dict(m) for m in PROBE], add_generation_prompt=False, **options)
    return whole[len(os.path.commonprefix([whole, history])) :]

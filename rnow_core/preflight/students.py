"""Is the student's text in order: reasoning mode, end of turn, ids, context window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnow_core.data.renderer import Renderer
from rnow_core.errors import Finding
from rnow_core.preflight.model_facts import ModelFacts
from rnow_core.preflight.probe import render


def check_reasoning_mode(student: Renderer, options: Mapping[str, Any]) -> list[Finding]:
    """RN314 (warning): the student's template renders the same with and without `rollout.reasoning_mode`."""
    if not options or render(student, options) != render(student, {}):
        return []
    message = f"no effect: the chat template of {Path(student.source).name} does the same in every mode"
    hint = "remove it, or choose a model whose template knows enable_thinking or reasoning_effort"
    return [Finding("RN314", "warning", message, hint, path="rollout.reasoning_mode")]


def check_end_of_turn(student: Renderer) -> list[Finding]:
    """RN315 (warning): nothing tells where a reply ends, so every rollout runs to max_tokens."""
    if student.stop_ids:
        return []
    message = "no token ends a reply: the chat template writes none, and the tokenizer has no eos token"
    hint = "every reply would run to rollout.max_tokens; use a chat model, or set eos_token in tokenizer_config.json"
    return [Finding("RN315", "warning", message, hint, path="model.path")]


def check_ids(student: Renderer, facts: ModelFacts) -> list[Finding]:
    """RN306 (warning): the tokenizer knows ids that the student has no weights for."""
    if student.vocab_size <= facts.vocab_rows:
        return []
    message = f"the tokenizer has {student.vocab_size} ids, and the model has weights for {facts.vocab_rows}"
    hint = "rows that use the others are refused; save the model with resized embeddings to use them"
    return [Finding("RN306", "warning", message, hint, path="model.path")]


def check_window(wanted: int | None, student: ModelFacts) -> list[Finding]:
    """RN320: `rollout.max_context_window` is beyond what the student was made for."""
    if wanted is None or wanted <= student.context_window:
        return []
    message = f"max_context_window is {wanted}, and the student reads {student.context_window} tokens"
    hint = f"set it to at most {student.context_window}, or leave it out"
    return [Finding("RN320", "error", message, hint, path="rollout.max_context_window")]

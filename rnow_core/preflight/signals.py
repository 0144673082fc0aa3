"""`algorithm.signal: topk | full`: whether the run's engine can give it, and the memory that it waits in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnow_core.build.engine import SELF
from rnow_core.config.schema import Config
from rnow_core.errors import Finding
from rnow_core.models.top_limits import MAX_ENTRIES, MAX_TOP
from rnow_core.preflight.model_facts import ModelFacts

ENTRY_BYTES = 8 + 4
"""An id and its logprob."""

SIGNAL = "algorithm.signal"


def signal_bytes(config: Config, teacher: ModelFacts, tokens: int, width: int) -> int:
    """Bytes of main memory that what the teacher says of a step's `tokens` takes; 0 with `sampled`.

    `teacher` are the facts of whichever model it is, `width` the bytes of one of its numbers.
    """
    if config.dataset_type != "distill" or config.algorithm.signal == "sampled":
        return 0
    if config.algorithm.signal == "full":
        return tokens * teacher.hidden_size * width
    return tokens * (config.algorithm.topk + 1) * ENTRY_BYTES


def signal_findings(config: Config, plan: Mapping[str, Any]) -> list[Finding]:
    """RN307 (error): a server that is asked for more than it can give."""
    signal = config.algorithm.signal
    if config.dataset_type != "distill" or signal == "sampled" or plan.get("teacher_scores_in") != "a server":
        return []
    if signal == "full":
        message = "`signal: full` reads the teacher's hidden states, and a server gives none"
        return [Finding("RN307", "error", message, "use signal: topk, or rollout.engine: hf", path=SIGNAL)]
    k, tokens = config.algorithm.topk, _tokens_at_once(config, plan)
    if k > MAX_TOP:
        message = f"`topk` is {k}, and a served teacher gives at most {MAX_TOP} ids a position"
        hint = f"set algorithm.topk to {MAX_TOP} or less, or rollout.engine to hf"
        return [Finding("RN307", "error", message, hint, path="algorithm.topk")]
    if k * tokens > MAX_ENTRIES:
        message = (
            f"`topk` {k} for up to {tokens} tokens at once is {k * tokens} JSON entries, and a server is asked for "
            f"at most {MAX_ENTRIES}"
        )
        hint = (
            f"set algorithm.topk to {MAX_ENTRIES // tokens}, lower data.batch_size, data.group_size or "
            "rollout.max_tokens, or set rollout.engine to hf"
        )
        return [Finding("RN307", "error", message, hint, path="algorithm.topk")]
    return []


def _tokens_at_once(config: Config, plan: Mapping[str, Any]) -> int:
    """The most ids of one call of the teacher: a group's where it works beside the student's server, else a step's."""
    longest = min(plan["prompt_tokens"]["max"] + config.rollout.max_tokens, plan["context_window"])
    alone = plan["placement"]["sharing"] != "sleep" and config.teacher[0].path != SELF
    rollouts = config.data.group_size if alone else plan["rollouts_per_step"]
    return max(1, int(rollouts * (longest + plan.get("teacher_context_tokens", 0))))

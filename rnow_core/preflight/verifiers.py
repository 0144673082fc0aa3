"""Can the built-in verifiers judge the rows that name them: answers given, packages installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rnow_core.env.define import RewardInfo
from rnow_core.env.rewards import require_verifiers
from rnow_core.env.verifiers.match import choice_match, numeric_match
from rnow_core.env.verifiers.table import BUILT_IN, answers
from rnow_core.errors import EnvironmentMissing, Finding
from rnow_core.preflight.rows import about_row
from rnow_core.types import Prompt

TRIED = {"numeric": numeric_match, "multiple_choice": choice_match}
"""The verifiers that refuse some answers: what they say of an empty reply tells."""


def check_verifiers(prompts: Sequence[Prompt], known: Mapping[str, RewardInfo]) -> Iterator[Finding]:
    """RN233 for every row whose answer its verifier cannot use; RN401 (warning) for a package that is missing."""
    for prompt in prompts:
        for index, name in enumerate(prompt.rewards):
            built_in = name in BUILT_IN and known.get(name) is BUILT_IN[name]
            problem = answer_problem(prompt, name) if built_in else None
            if problem:
                hint = f'`{name}` is built in: give the row "metadata": {{"answer": ...}}'
                yield about_row(prompt, "RN233", f"`{name}`: {problem}", hint, f"rewards[{index}]")
    try:
        require_verifiers((name for prompt in prompts for name in prompt.rewards), known)
    except EnvironmentMissing as missing:
        message = f"{missing.message}; checking works without it, `rnow run` does not"
        yield Finding("RN401", "warning", message, missing.hint)


def answer_problem(prompt: Prompt, verifier: str) -> str | None:
    """Why a built-in verifier cannot use the row's answer; None when it can."""
    try:
        for answer in answers(prompt.metadata):
            if verifier in TRIED:
                TRIED[verifier]("", answer)
            elif not str(answer).strip():
                return "the answer is empty"
    except (ValueError, OverflowError) as error:
        return str(error)
    return None

"""The built-in rewards: 1 where the reply has the row's `metadata.answer` (or `expected_answer`), else 0.

The reward worker loads this file as it loads a project's rewards.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rnow_core.env.define import RewardArgs, get_response, reward
from rnow_core.env.verifiers.match import choice_match, exact_match, numeric_match
from rnow_core.env.verifiers.mathematics import math_match
from rnow_core.env.verifiers.table import answers


@reward
def exact(args: RewardArgs, messages: list[Any]) -> float:
    """The reply is the answer."""
    return _any(exact_match, args, messages)


@reward
def numeric(args: RewardArgs, messages: list[Any]) -> float:
    """The reply ends with the answer, a number."""
    return _any(numeric_match, args, messages)


@reward
def math(args: RewardArgs, messages: list[Any]) -> float:
    """The reply's boxed or last expression equals the answer."""
    return _any(math_match, args, messages)


@reward
def multiple_choice(args: RewardArgs, messages: list[Any]) -> float:
    """The reply chooses the answer, a letter."""
    return _any(choice_match, args, messages)


def _any(matches: Callable[[str, object], bool], args: RewardArgs, messages: list[Any]) -> float:
    reply = get_response(messages)
    return float(any(matches(reply, answer) for answer in answers(args.metadata)))

"""`@reward` for rewards.py inside a runner: takes the same code as rnow_core/env/define.py.

Python 3.8, standard library only: this file runs inside sandboxes.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
from typing import TYPE_CHECKING, Any

from .toolkit import is_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REWARDS: dict[str, Reward] = {}
"""Every reward of this process, in order of definition."""


@dataclasses.dataclass(frozen=True)
class RewardArgs:
    """What a reward knows besides the conversation."""

    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    secrets: Mapping[str, str] = dataclasses.field(default_factory=dict)


class RewardDefinitionError(Exception):
    """A function that `@reward` cannot register."""

    def __init__(self, reward: Reward, problem: str, hint: str) -> None:
        super().__init__(f"{reward.file}:{reward.line}: @reward on `{reward.name}`: {problem} ({hint})")
        self.problem = f"@reward on `{reward.name}`: {problem}"
        self.file = reward.file
        self.line = reward.line
        self.hint = hint


class Reward:
    """A registered function and its options."""

    def __init__(
        self, function: Callable[..., Any], precondition: bool, timeout: float | None, sandbox: bool
    ) -> None:
        code = inspect.unwrap(function).__code__
        self.function = function
        self.name: str = function.__name__
        self.file: str = code.co_filename
        self.line: int = code.co_firstlineno
        self.precondition = precondition
        self.timeout = timeout
        self.sandbox = sandbox

    def describe(self) -> dict[str, Any]:
        """The reward as JSON."""
        return {
            "name": self.name,
            "file": self.file,
            "line": self.line,
            "is_async": inspect.iscoroutinefunction(inspect.unwrap(self.function)),
            "precondition": self.precondition,
            "timeout": self.timeout,
            "sandbox": self.sandbox,
        }

    def check(self) -> None:
        """Raise RewardDefinitionError for what could not be called with args and messages."""
        function = inspect.unwrap(self.function)
        parameters = list(inspect.signature(self.function).parameters.values())
        if len(parameters) != 2 or any(parameter.kind not in (0, 1) for parameter in parameters):
            got = f"({', '.join(map(str, parameters))})" if parameters else "no parameters"
            problem = f"expected two parameters, args and messages; got {got}"
            hint = f"write `def {self.name}(args: RewardArgs, messages: list) -> float`"
            raise RewardDefinitionError(self, problem, hint)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise RewardDefinitionError(self, "it yields", "return one number instead")
        if not is_timeout(self.timeout):
            hint = "give a number of seconds above 0, or leave it out"
            raise RewardDefinitionError(self, f"timeout is {self.timeout!r}", hint)


def reward(
    function: Callable[..., Any] | None = None,
    /,
    *,
    precondition: bool = False,
    timeout: float | None = None,
    sandbox: bool = False,
) -> Any:
    """Register a function `(args: RewardArgs, messages: list) -> float`, sync or async, under its name."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.isfunction(function):
            raise TypeError(f"@reward expects a function, got {type(function).__name__}")
        new = Reward(function, precondition, timeout, sandbox)
        new.check()
        known = REWARDS.get(new.name)
        if known is not None and (known.file, known.line) != (new.file, new.line):
            problem = f"a reward of this name exists at {known.file}:{known.line}"
            raise RewardDefinitionError(new, problem, "give one of them another name")
        REWARDS[new.name] = new
        return function

    return register if function is None else register(function)


def get_response(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of the last assistant message; of list content, its text parts. "" if none."""
    for message in reversed(messages):
        if message.get("role") == "assistant":
            content = message.get("content")
            if isinstance(content, list):
                parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
                return "".join(part.get("text") or "" for part in parts)
            return content if isinstance(content, str) else ""
    return ""


def read_score(value: Any) -> float:
    """The score that a reward returned; ValueError for anything but a finite number."""
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    missing = " (is a `return` missing?)" if value is None else ""
    raise ValueError(f"returned {repr(value)[:1000]}, expected a finite number{missing}")

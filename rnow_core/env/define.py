"""`@reward`: how a project's rewards.py says what a good conversation is.

    from rnow import reward, RewardArgs, get_response

    @reward
    def accuracy(args: RewardArgs, messages: list) -> float:
        return 1.0 if args.metadata["answer"] in get_response(messages) else 0.0

A rollout's total is the sum of its rewards, gates included; a gate (`precondition=True`) that gives exactly 0
makes the total 0. Standard library only: this file is imported by the user's code, in the worker process.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, overload

from rnow_core.env.runner.reward import RewardArgs, get_response
from rnow_core.errors import RnowError

__all__ = ["RewardArgs", "get_response", "reward"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RewardInfo:
    """A registered reward: where it stands (file relative to the project) and how it is called. `timeout` in
    seconds; None = `rollout.reward_timeout`.
    """

    name: str
    file: str
    line: int
    is_async: bool = False
    precondition: bool = False
    timeout: float | None = None
    sandbox: bool = False


class RewardDefinitionError(RnowError):
    """A function that `@reward` cannot register."""

    def __init__(self, name: str, file: str, line: int, problem: str, hint: str = "") -> None:
        super().__init__(f"@reward on `{name}`: {problem}", hint)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


REGISTERED: dict[str, tuple[RewardInfo, Callable[..., Any]]] = {}
"""Every reward of this process, in order of definition. The worker process loads one project, so one table is
enough."""

_SIGNATURE = "def {name}(args: RewardArgs, messages: list) -> float"


@overload
def reward(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def reward(
    *, precondition: bool = False, timeout: float | None = None, sandbox: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def reward(
    function: Callable[..., Any] | None = None,
    /,
    *,
    precondition: bool = False,
    timeout: float | None = None,
    sandbox: bool = False,
) -> Any:
    """Register a function `(args: RewardArgs, messages: list) -> float`, sync or async, as a reward of its
    name.

    precondition: a gate; where it gives exactly 0 the rollout's total is 0. timeout: seconds for one call,
    instead of `rollout.reward_timeout`. sandbox: run it in the row's container, after the tools. The function
    itself is returned unchanged. Raises RewardDefinitionError, with file and line, for anything that could not
    be called that way.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        info = _describe(function, precondition, timeout, sandbox)
        known = REGISTERED.get(info.name)
        if known is not None and (known[0].file, known[0].line) != (info.file, info.line):
            where = f"{known[0].file}:{known[0].line}"
            raise _problem(info, f"a reward of this name exists at {where}", "give one of them another name")
        REGISTERED[info.name] = (info, function)
        return function

    return register if function is None else register(function)


def total_reward(scores: Mapping[str, float], rewards: Mapping[str, RewardInfo]) -> float:
    """0 if any gate is exactly 0, else the sum of all scores, gates included."""
    if any(score == 0.0 and rewards[name].precondition for name, score in scores.items()):
        return 0.0
    return sum(scores.values())


def _describe(
    function: Callable[..., Any], precondition: bool, timeout: float | None, sandbox: bool
) -> RewardInfo:
    name = getattr(function, "__name__", repr(function))
    if not inspect.isfunction(function):
        raise TypeError(f"@reward expects a function, got {type(function).__name__} {name}")
    code = function.__code__
    file = os.path.relpath(code.co_filename)
    is_async = inspect.iscoroutinefunction(function)
    info = RewardInfo(name, file, code.co_firstlineno, is_async, precondition, timeout, sandbox)
    _check_parameters(info, function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise _problem(info, "it yields", "return one number instead")
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
        raise _problem(info, f"timeout is {timeout!r}", "give a number of seconds above 0, or leave it out")
    return info


def _check_parameters(info: RewardInfo, function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) == 2 and all(parameter.kind in positional for parameter in parameters):
        return
    got = f"({', '.join(str(parameter) for parameter in parameters)})" if parameters else "no parameters"
    hint = f"write `{_SIGNATURE.format(name=info.name)}`"
    raise _problem(info, f"expected two parameters, args and messages; got {got}", hint)


def _problem(info: RewardInfo, problem: str, hint: str) -> RewardDefinitionError:
    return RewardDefinitionError(info.name, info.file, info.line, problem, hint)

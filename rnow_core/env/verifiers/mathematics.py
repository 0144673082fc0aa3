"""`math_match`: whether two expressions are equal, by the package math-verify, in a process that may be killed."""

from __future__ import annotations

import logging
import multiprocessing
import resource
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rnow_core.env.verifiers.text import answer_text, last_boxed
from rnow_core.errors import EnvironmentMissing

EXTRA = "math"
"""The extra of rnow-distill that brings math-verify."""

SECONDS = 10.0
STEP_SECONDS = 3
"""For a whole comparison, and for each of its steps: math-verify's own alarm stops what runs in Python."""

LONGEST = 2_000
"""Characters of an expression; of a reply without a box, its end."""

_MORE_MEMORY = 2 * 2**30
_STATM = Path("/proc/self/statm")


def math_match(reply: str, answer: object) -> bool:
    r"""Whether the expression that the reply ends with equals the answer: `\frac12` and 0.5, `2\sqrt2` and `\sqrt8`.

    The expression is what stands in the last `\boxed{}`; without one, math-verify looks for it at the end of the
    reply. The answer is LaTeX or plain text, with or without dollars or a box. A comparison that takes longer than
    SECONDS or more memory than there is counts as unequal.

    Raises:
        EnvironmentMissing: math-verify is not installed.
        ValueError: the answer is empty.
    """
    require_math()
    import_module(
        "math_verify"
    )  # here, so that the processes that are forked for comparisons have it already
    if not str(answer).strip():
        raise ValueError("the answer is empty")
    text = answer_text(reply)
    boxed = last_boxed(text)
    if boxed is not None and len(boxed) > LONGEST:
        return False
    given = text[-LONGEST:] if boxed is None else _dollars(boxed)
    return bool(_apart(lambda: _equal(given, _gold(str(answer)))))


def require_math() -> None:
    """Raise EnvironmentMissing, with the command that helps, when math-verify is not installed."""
    if find_spec("math_verify") is None:
        raise EnvironmentMissing(
            "the verifier `math` needs math-verify, not installed here",
            f'pip install "rnow-distill[{EXTRA}]"',
        )


def _gold(answer: str) -> str:
    boxed = last_boxed(answer)
    plain = answer.strip() if boxed is None else boxed
    return plain if "$" in plain else _dollars(plain)


def _dollars(expression: str) -> str:
    return f"${expression.strip().strip('$')}$"


def _equal(given: str, gold: str) -> bool:
    checker: Any = import_module("math_verify")
    logging.disable(logging.CRITICAL)
    expected = checker.parse(gold, parsing_timeout=STEP_SECONDS)
    found = checker.parse(given, parsing_timeout=STEP_SECONDS)
    return bool(checker.verify(expected, found, timeout_seconds=STEP_SECONDS))


def _apart(work: Callable[[], bool]) -> bool | None:
    """The result of `work` in a process of its own; None when it dies or takes longer than SECONDS.

    A power tower is one multiplication inside the interpreter: neither an alarm nor an exception ends it.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        return bool(ours.recv()) if ours.poll(SECONDS) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()
        process.close()
        ours.close()


def _work(work: Callable[[], bool], result: Connection) -> None:
    _limit_memory()
    with suppress(Exception, RecursionError, MemoryError):
        result.send(work())


def _limit_memory() -> None:
    """_MORE_MEMORY on top of what the process was forked with, where its size can be read."""
    if _STATM.is_file():
        limit = int(_STATM.read_text().split()[0]) * resource.getpagesize() + _MORE_MEMORY
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))

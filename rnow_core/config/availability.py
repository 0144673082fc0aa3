"""What the schema knows and the engine of this version does not have yet.

One line a feature; whoever builds the feature deletes its line. A config that uses one still loads, so that
documents and editors work; `validate` and `run` refuse it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rnow_core.config.problems import KeyPath, Problem
from rnow_core.config.schema import Config

Uses = Callable[[Any], bool]


def _on(value: Any) -> bool:
    return bool(value)


def _is(word: Any) -> Uses:
    return lambda value: value == word


MISSING: tuple[tuple[str, Uses, str], ...] = (
    ("teacher", lambda teachers: len(teachers) > 1, "name one teacher"),
    ("teacher.template", _is("own"), "leave it out: the teacher reads the student's template"),
    (
        "resources.trainer_tensor_parallel",
        lambda ranks: ranks not in (None, 1),
        "use more trainer_gpus: one rank each",
    ),
    ("logging.trackio", _on, "use wandb_project, or read metrics.jsonl"),
    ("logging.tensorboard", _on, "use wandb_project, or read metrics.jsonl"),
)
"""Key, whether a value of it uses the feature, and what to do meanwhile."""


def _combinations(config: Config) -> list[Problem]:
    """Features that exist, but not together."""
    urls: list[KeyPath] = [("teacher", i, "url") for i, teacher in enumerate(config.teacher) if teacher.url]
    urls += [("rollout", "url")] if config.rollout.url else []
    problems = []
    if config.rollout.engine == "hf":
        message = "not available yet: a server elsewhere together with `engine: hf`"
        problems = [Problem("RN140", url, message, "leave rollout.engine out") for url in urls]
    if config.algorithm.signal == "full" and len(config.teacher) > 1:
        message = "not available yet: `signal: full` with several teachers"
        problems.append(Problem("RN140", ("algorithm", "signal"), message, "use topk"))
    return problems


def unavailable(config: Config) -> list[Problem]:
    """One error for each configured feature without an engine part."""
    problems = [
        _not_yet(path, value, instead)
        for dotted_path, uses, instead in MISSING
        for path, value in _values(config, tuple(dotted_path.split(".")))
        if uses(value)
    ]
    problems += _combinations(config)
    return problems


def _values(config: Config, keys: tuple[str, ...]) -> list[tuple[KeyPath, Any]]:
    """The value of a key; of a key below `teacher` one for each teacher."""
    if keys[0] == "teacher" and len(keys) == 2:
        return [(("teacher", i, keys[1]), getattr(t, keys[1])) for i, t in enumerate(config.teacher)]
    value: Any = config
    for key in keys:
        value = getattr(value, key)
    return [(keys, value)]


def _not_yet(path: KeyPath, value: Any, instead: str) -> Problem:
    shown = (
        f"{path[-1]}: {value}" if isinstance(value, str | int | float) and len(str(value)) < 40 else path[-1]
    )
    return Problem("RN140", path, f"not available yet: `{shown}`", instead)

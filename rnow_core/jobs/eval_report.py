"""The rows of an evaluation, one a policy and problem, and the figures that are made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rnow_core.algo.pass_at_k import mean_estimate
from rnow_core.rollout.passes import Scoring
from rnow_core.rollout.problems import ProblemSamples
from rnow_core.types import ScoredRollout

Row = Mapping[str, Any]
Figures = dict[str, Any]

POLICIES = ("student", "base", "teacher")
"""In the order in which they are shown."""

DIFFERENCES = (("student", "base"), ("teacher", "base"), ("teacher", "student"))


def problem_row(policy: str, result: ProblemSamples, default_env: str) -> dict[str, Any]:
    """What a policy made of a problem, as JSON-ready data. `rewards` are the total rewards of `replies`, in order."""
    prompt = result.prompt
    return {
        "policy": policy,
        "problem": prompt.index,
        "file": prompt.file,
        "line": prompt.line,
        "env": prompt.env or default_env,
        "prompt": list(prompt.messages),
        "metadata": dict(prompt.metadata),
        "rewards": [scored.reward for scored in result.rollouts],
        "replies": [_reply(scored) for scored in result.rollouts],
        "failures": list(result.failures),
    }


def _reply(scored: ScoredRollout) -> dict[str, Any]:
    rollout = scored.rollout
    return {
        "sample": rollout.sample,
        "messages": list(rollout.messages[len(rollout.prompt.messages) :]),
        "rewards": dict(scored.rewards),
        "tokens": sum(rollout.trajectory.mask_T),
        "stop_reason": rollout.stop_reason,
        "truncated": rollout.truncated,
        "policy": rollout.policy,
    }


def figures(rows: Sequence[Row], scoring: Scoring) -> Figures:
    """`overall`, and `envs` by name: what `_of` gives for all rows, and for those of each env."""
    envs = sorted({row["env"] for row in rows})
    return {
        "overall": _of(rows, scoring),
        "envs": {env: _of([row for row in rows if row["env"] == env], scoring) for env in envs},
    }


def _of(rows: Sequence[Row], scoring: Scoring) -> Figures:
    """`policies` with the figures of each; `differences` of their mean rewards over the problems that both have; and
    `gap_closed` in percent, None without a gap.
    """
    by_policy = {
        policy: {row["problem"]: row for row in rows if row["policy"] == policy} for policy in POLICIES
    }
    there = {policy: found for policy, found in by_policy.items() if found}
    pairs = [(first, second) for first, second in DIFFERENCES if first in there and second in there]
    differences = {f"{a} - {b}": _difference(there[a], there[b]) for a, b in pairs}
    return {
        "policies": {policy: _policy(list(found.values()), scoring) for policy, found in there.items()},
        "differences": differences,
        "gap_closed": _gap_closed(differences),
    }


def _policy(rows: Sequence[Row], scoring: Scoring) -> Figures:
    """`avg` and `pass` by k, each a mean with its interval; tokens of a reply; the share that was cut; counts."""
    rewards_PG = [row["rewards"] for row in rows]
    replies = [reply for row in rows for reply in row["replies"]]
    passes = {k: scoring.passes(rewards_PG, k) for k in scoring.pass_at}
    return {
        "avg": asdict(mean_estimate(scoring.avg(rewards_PG))),
        "pass": {str(k): asdict(mean_estimate(values, 0.0, 1.0)) for k, values in passes.items() if values},
        "tokens": math.fsum(reply["tokens"] for reply in replies) / len(replies),
        "truncated": sum(reply["truncated"] for reply in replies) / len(replies),
        "problems": len(rows),
        "samples": len(replies),
        "failed": sum(len(row["failures"]) for row in rows),
    }


def _difference(first: Mapping[int, Row], second: Mapping[int, Row]) -> Figures | None:
    """Problem by problem, so that how hard the problems are does not widen the interval."""
    both = sorted(first.keys() & second.keys())
    if not both:
        return None
    return asdict(
        mean_estimate([_mean(first[key]["rewards"]) - _mean(second[key]["rewards"]) for key in both])
    )


def _gap_closed(differences: Mapping[str, Figures | None]) -> float | None:
    made_up, gap = differences.get("student - base"), differences.get("teacher - base")
    if made_up is None or gap is None or gap["mean"] <= 0:
        return None
    return 100.0 * float(made_up["mean"]) / float(gap["mean"])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

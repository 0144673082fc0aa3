"""The checks before step 1, on real weights, in seconds: what the sampler says, what the learner trains and what the
teacher scores must be the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rnow_core.errors import RunFailed
from rnow_core.models.seams import Teacher
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.probe import probe_rollouts, sampled_logprobs
from rnow_core.rollout.score import response_request, teacher_views
from rnow_core.types import Prompt, Rollout, ScoreRequest

MAX_GAP = 50.0
"""Nats; a gap beyond it is as wrong as one of this size."""

ScoreFunction = Callable[[Sequence[ScoreRequest]], Awaitable[list[list[float]]]]


@dataclass(frozen=True)
class Tolerances:
    """What counts as the same: per-token mismatch KL of sampler and learner, and gaps between two scorings."""

    mismatch_kl: float
    student_as_teacher_kl: float
    repeat: float


FLOAT32 = Tolerances(mismatch_kl=1e-4, student_as_teacher_kl=1e-4, repeat=1e-5)
BFLOAT16 = Tolerances(mismatch_kl=0.05, student_as_teacher_kl=1e-2, repeat=1e-2)


SERVED_FLOAT32 = Tolerances(mismatch_kl=1e-4, student_as_teacher_kl=1e-3, repeat=2e-3)
SERVED_BFLOAT16 = Tolerances(mismatch_kl=0.05, student_as_teacher_kl=2e-2, repeat=0.1)
"""A server batches as requests come, so two scorings differ in the last bits."""


def tolerances(*, half_precision: bool, served: bool) -> Tolerances:
    """What to allow: by the weights' precision, and whether a server of its own computes."""
    if served:
        return SERVED_BFLOAT16 if half_precision else SERVED_FLOAT32
    return BFLOAT16 if half_precision else FLOAT32


SIGNAL_GAP = 1e-3
"""Logprobs that come with a signal are computed in another way than those without; a wrong position is off by nats."""


@dataclass(frozen=True)
class CheckResult:
    """One self-check: its name, whether it passed, and the figures."""

    name: str
    passed: bool
    detail: str


async def self_check(
    prompts: Sequence[Prompt],
    parts: RolloutParts,
    learner: ScoreFunction,
    student_as_teacher: Teacher,
    tolerances: Tolerances,
    student_here: Teacher | None = None,
) -> list[CheckResult]:
    """Sample a few short replies and compare every pair of scorers on them.

    Args:
        prompts: rows to sample from; the first few are used.
        parts: the run's sampler and teachers.
        learner: scores with the weights that will be trained, as the update does.
        student_as_teacher: the teacher's scoring path over the student's weights.
        tolerances: what counts as the same.
        student_here: the same weights scored in this process; None when they are the learner's.
    """
    async with parts.phase("rollout"):
        rollouts = await probe_rollouts(prompts, 0, parts)
        requests, sampled = [response_request(rollout) for rollout in rollouts], sampled_logprobs(rollouts)
        as_teacher = _flat(await student_as_teacher.score(requests))
    async with parts.phase("train"):
        trained = _flat(await learner(requests))
        here = trained if student_here is None else _flat(await student_here.score(requests))
    results = [
        _mismatch(trained, sampled, tolerances),
        _same_path(here, as_teacher, tolerances),
    ]
    if any(parts.seen_by_teacher(rollout.prompt) is not rollout.prompt for rollout in rollouts):
        results.append(_same_prompts(rollouts, parts))
    for name, teacher in parts.teachers.items():
        asked = [view.request for view in teacher_views(rollouts, name, parts)]
        async with parts.phase("score"):
            first, second = _flat(await teacher.score(asked)), _flat(await teacher.score(asked))
        results.append(_repeats(f"teacher '{name}' repeats itself", first, second, tolerances.repeat))
        if parts.signal is not None:
            async with parts.phase("score"):
                answers = await teacher.score_with_signal(asked, parts.signal)
            third, what = (
                _flat([answer.logprobs for answer in answers]),
                f"the signal of teacher '{name}' fits",
            )
            results.append(_repeats(what, first, third, max(tolerances.repeat, SIGNAL_GAP)))
    return results


def require(results: Sequence[CheckResult]) -> None:
    """Stop the run when a check failed.

    Raises:
        RunFailed: naming every failed check with its figures.
    """
    failed = [f"{result.name}: {result.detail}" for result in results if not result.passed]
    if failed:
        raise RunFailed(
            "self-check before step 1 failed: " + "; ".join(failed),
            "nothing was trained; sampler, learner and teacher disagree on the same ids, so training would be "
            "wrong. Try model.dtype: float32, then report this with logs and versions",
        )


def _mismatch(trained: list[float], sampled: list[float], limits: Tolerances) -> CheckResult:
    name = "sampler and learner agree"
    if problem := _unusable(trained, sampled):
        return CheckResult(name, False, problem)
    gaps = _gaps(trained, sampled)
    kl, worst = _divergence(gaps), max(map(abs, gaps))
    detail = (
        f"mismatch KL {kl:.2e} on {len(gaps)} tokens (limit {limits.mismatch_kl:g}), largest gap {worst:.2e}"
    )
    return CheckResult(name, kl <= limits.mismatch_kl, detail)


def _same_path(trained: list[float], as_teacher: list[float], limits: Tolerances) -> CheckResult:
    name = "student as its own teacher has KL 0"
    if problem := _unusable(trained, as_teacher):
        return CheckResult(name, False, problem)
    gaps = _gaps(trained, as_teacher)
    # the plain mean is what teacher_kl reports, but gaps of both signs may cancel in it
    kl = max(abs(math.fsum(gaps) / len(gaps)), _divergence(gaps))
    detail = f"KL {kl:.2e} on {len(gaps)} tokens (limit {limits.student_as_teacher_kl:g})"
    return CheckResult(name, kl <= limits.student_as_teacher_kl, detail)


def _same_prompts(rollouts: Sequence[Rollout], parts: RolloutParts) -> CheckResult:
    """A teacher's prompt differs from the student's by its context only: without one, the way that makes it gives the
    student's ids.
    """
    name = "teacher's prompt without its context is the student's"
    different = [
        rollout
        for rollout in rollouts
        if parts.render(rollout.prompt, rollout.agentic)[1]
        != rollout.trajectory.ids_T[: rollout.trajectory.prompt_length]
    ]
    rows = ", ".join(f"{rollout.prompt.file}:{rollout.prompt.line}" for rollout in different)
    detail = f"other ids for {rows}" if different else f"{len(rollouts)} prompts, id for id"
    return CheckResult(name, not different, detail)


def _repeats(name: str, first: list[float], second: list[float], limit: float) -> CheckResult:
    if problem := _unusable(first, second):
        return CheckResult(name, False, problem)
    worst = max(map(abs, _gaps(first, second)))
    detail = f"largest difference {worst:.2e} between two scorings of {len(first)} tokens (limit {limit:g})"
    return CheckResult(name, worst <= limit, detail)


def _unusable(first: list[float], second: list[float]) -> str | None:
    """Why two scorings of the same ids cannot be compared, or None."""
    if len(first) != len(second) or not first:
        return f"got {len(first)} and {len(second)} logprobs for the same tokens"
    bad = sum(not math.isfinite(value) for value in (*first, *second))
    return f"{bad} of {len(first) + len(second)} logprobs are not finite" if bad else None


def _gaps(first: list[float], second: list[float]) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True)]


def _divergence(gaps: list[float]) -> float:
    """Mean of exp(d) - d - 1, at least 0; d is bounded because exp of a broken model's gap overflows."""
    return math.fsum(math.expm1(min(gap, MAX_GAP)) - gap for gap in gaps) / len(gaps)


def _flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]

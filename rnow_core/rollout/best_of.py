"""One prompt -> its rows: the best acceptable of N conversations, and the others apart from it.

A prompt has one row that counts: in train, or, where nothing was acceptable, in rejected with the reason. Its other
conversations are rejected rows with the reason `not-best`, so that prompts can be counted without knowing N.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rnow_core.data.prompt_file import NOT_BEST, SourcePrompt
from rnow_core.models.adaptive_limit import Closed
from rnow_core.rollout.generate import REJECTED, TRAIN, Sample, TeacherParts, sample_one
from rnow_core.rollout.verdict import Reason, written


@dataclass(frozen=True, slots=True)
class Ended:
    """How a prompt ended. `reason` is None for a row to train on; tokens, cost and answers are of all its samples.

    `not_best`: rejected rows beside the one that counts.
    """

    id: str
    reason: Reason | None
    detail: str
    answers: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    seconds: float
    not_best: int = 0

    @property
    def output(self) -> str:
        """Where its row went."""
        return REJECTED if self.reason else TRAIN


async def generate_one(item: SourcePrompt, parts: TeacherParts) -> Ended:
    """Answer a prompt and write its rows; everything that was bought is in the journal.

    Raises:
        Closed: the run is being stopped; the next one goes on here.
        RnowError: nothing more can be generated.
    """
    started = time.perf_counter()
    samples = await _all([sample_one(item, number, parts) for number in range(parts.best_of)])
    best = choose(samples)
    others = [sample for sample in samples if sample is not best]
    if best.reason is None and not parts.is_new(best.messages):
        best = replace(best, reason="duplicate")
    costs = [sample.cost for sample in samples if sample.cost is not None]
    ended = Ended(
        item.id,
        best.reason,
        best.detail,
        answers=sum(sample.turns for sample in samples),
        tokens_in=sum(sample.tokens_in for sample in samples),
        tokens_out=sum(sample.tokens_out for sample in samples),
        cost=sum(costs) if costs else None,
        seconds=time.perf_counter() - started,
        not_best=len(others),
    )
    # appended in this order, so the prompt has ended only when the others are in the journal
    await _all([*(_drop(item, sample, parts) for sample in others), _finish(item, best, ended, parts)])
    return ended


async def reject(item: SourcePrompt, reason: Reason, detail: str, parts: TeacherParts) -> Ended:
    """End a prompt that is not asked about."""
    ended = Ended(item.id, reason, detail, 0, 0, 0, None, 0.0)
    messages = [dict(message) for message in item.prompt.messages]
    await _finish(item, Sample(0, messages, reason, detail), ended, parts)
    return ended


def choose(samples: Sequence[Sample]) -> Sample:
    """The acceptable sample with the highest reward; of equal ones the shorter, then the earlier.

    Where none is acceptable, the one that stands for the prompt is found in the same way.
    """

    def rank(sample: Sample) -> tuple[bool, float, int, int]:
        reward = float("-inf") if sample.reward is None else sample.reward
        return sample.reason is not None, -reward, written(sample.messages), sample.number

    return min(samples, key=rank)


async def _all(works: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """All results, begun in order. When something fails the others are still finished: they are paid for."""
    results = await asyncio.gather(*works, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise next((error for error in errors if not isinstance(error, Closed)), errors[0])
    return results


async def _finish(item: SourcePrompt, sample: Sample, ended: Ended, parts: TeacherParts) -> None:
    spent = {"in": ended.tokens_in, "out": ended.tokens_out, "cost": ended.cost}
    await parts.journal.finish(
        item.id,
        ended.output,
        _row(item, sample, parts),
        reason=sample.reason,
        turns=ended.answers,
        **spent,
        providers=sample.providers,
        seconds=ended.seconds,
    )


async def _drop(item: SourcePrompt, sample: Sample, parts: TeacherParts) -> None:
    """Put a sample that was not chosen aside, unless that was done before a kill; its cost is the prompt's."""
    name = f"{item.id}#{parts.settings(item.prompt)}.{sample.number}"
    if name in parts.journal.done:
        return
    detail = ": ".join(part for part in (sample.reason, sample.detail) if part)
    row = _row(item, replace(sample, reason=NOT_BEST, detail=detail), parts)
    nothing = {"turns": 0, "in": 0, "out": 0, "cost": None, "seconds": 0.0}
    await parts.journal.finish(name, REJECTED, row, reason=NOT_BEST, providers=sample.providers, **nothing)


def _row(item: SourcePrompt, sample: Sample, parts: TeacherParts) -> dict[str, Any]:
    prompt = item.prompt
    row: dict[str, Any] = {
        "messages": sample.messages,
        "metadata": {**prompt.metadata, "teacher": parts.asker.request.model, "turns": sample.turns},
        "tools": parts.tool_names(prompt),
    }
    if sample.reward is not None:
        row["reward"] = sample.reward
    if sample.reason:
        row["reason"] = sample.reason
    if sample.reason and sample.detail:
        row["detail"] = sample.detail
    return row

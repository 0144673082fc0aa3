"""`rollouts/step_000001.jsonl`: the kept rollouts of a step, enough to see where the teacher disagrees.

Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from rnow_core.track.atomic import write_chunks_atomic
from rnow_core.track.jsonable import dumps
from rnow_core.types import Batch, ScoredRollout, UpdateResult

SCHEMA = 1
DECIMALS = 6
Pieces = Callable[[Sequence[int]], list[str]]
Column = list[float | None]
_NAME = re.compile(r"step_(\d{6,})\.jsonl")


def keep(n_rollouts: int, k: int, seed: int, step: int) -> list[int]:
    """Which rollouts of a step are kept: at most `k` indices, ascending, the same for the same arguments."""

    def rank(index: int) -> bytes:
        return blake2b(f"trace/{seed}/{step}/{index}".encode(), digest_size=8).digest()

    return sorted(sorted(range(n_rollouts), key=rank)[: max(k, 0)])


def step_traces(
    step: int,
    scored: Sequence[ScoredRollout],
    batch: Batch,
    update: UpdateResult,
    kept: Iterable[int],
    pieces: Pieces,
) -> Iterator[dict[str, Any]]:
    """One record for each kept rollout, made as it is asked for."""
    columns = RowColumns(batch, update)
    for row in kept:
        yield {"step": step, **trace_record(scored[row], columns.of(row), pieces)}


def write_traces(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` by the records, one a line; complete or invisible.

    Raises:
        RunFailed: the disk did not take it.
    """
    write_chunks_atomic(path, (dumps(record) + "\n" for record in records))


def cut_traces(folder: Path, step: int) -> None:
    """Remove the files of later steps: what a resume will do again."""
    for path in folder.glob("step_*.jsonl"):
        match = _NAME.fullmatch(path.name)
        if match and int(match.group(1)) > step:
            path.unlink()


class RowColumns:
    """Finds the update's values of one batch row, aligned with the row's ids."""

    def __init__(self, batch: Batch, update: UpdateResult) -> None:
        self._mask = batch.mask
        self._columns = update.columns
        self._ends = [0, *accumulate(batch.lengths)]
        counts = (sum(batch.mask[start:end]) for start, end in pairwise(self._ends))
        self._trained = [0, *accumulate(counts)]

    def of(self, row: int) -> dict[str, Column]:
        """By column name, one value a token of the row; None on tokens that were not trained."""
        flags = [bool(flag) for flag in self._mask[self._ends[row] : self._ends[row + 1]]]
        mine = slice(self._trained[row], self._trained[row + 1])
        return {name: spread(values[mine], flags) for name, values in self._columns.items()}


def spread(values_N: Iterable[float], flags_T: Sequence[bool]) -> Column:
    """Put the next value at each True, None at each False.

    Raises:
        ValueError: not as many values as there are True flags.
    """
    values = list(values_N)
    if len(values) != sum(flags_T):
        raise ValueError(f"{len(values)} values for {sum(flags_T)} trained tokens")
    remaining = iter(values)
    return [float(next(remaining)) if flag else None for flag in flags_T]


def trace_record(scored: ScoredRollout, columns: Mapping[str, Column], pieces: Pieces) -> dict[str, Any]:
    """One rollout as JSON-ready data.

    `messages` is the conversation, with the tool calls as objects and their results as `role: tool`.
    `turns` is 0 between turns.

    `prompt_ids` is the first prompt. `ids` is everything behind it, and each of `pieces`, `mask`, `turns`,
    `sampler`, `trainer`, `teacher`, `kl`, `advantage`, `entropy` has one entry for each of `ids`: null where
    there is no value; so has `divergence`, where the run's loss is one. kl = trainer - teacher on trained tokens.
    `teacher` is null on tokens behind what it reads.

    Args:
        scored: the rollout.
        columns: `RowColumns.of` its row.
        pieces: the text of each id.

    Raises:
        ValueError: a column or the pieces do not have one entry a token.
    """
    rollout, start = scored.rollout, scored.rollout.trajectory.prompt_length
    trajectory = rollout.trajectory
    _check_lengths(columns, len(trajectory.ids_T))
    teacher = None if scored.teacher_logprobs_T is None else _known(scored.teacher_logprobs_T[start:])
    trainer = columns["old"][start:]
    mask = trajectory.mask_T[start:]
    return {
        "schema": SCHEMA,
        **_source(scored),
        "prompt_ids": list(trajectory.ids_T[:start]),
        "ids": list(trajectory.response_ids),
        "pieces": _pieces(trajectory.response_ids, pieces),
        "mask": [int(flag) for flag in mask],
        "turns": list(rollout.turns_T[start:]) or [int(flag) for flag in mask],
        "sampler": _rounded(_where(trajectory.mu_T[start:], mask)),
        "trainer": _rounded(trainer),
        "teacher": None if teacher is None else _rounded(teacher),
        **_kl(trainer, teacher),
        "advantage": _rounded(columns["advantage"][start:]),
        "entropy": _rounded(columns["entropy"][start:]),
        **(
            {"divergence": _rounded(_known(columns["divergence"][start:]))} if "divergence" in columns else {}
        ),
        "task_advantage": scored.task_advantage,
        "rewards": dict(scored.rewards),
        "reward": scored.reward,
        "stop_reason": rollout.stop_reason,
        "tool_calls": rollout.tool_calls,
        "tool_errors": rollout.tool_errors,
        "policy": rollout.policy,
        "seconds": round(rollout.seconds, 3),
    }


def _source(scored: ScoredRollout) -> dict[str, Any]:
    """Where the rollout comes from, and its conversation and prompts as text."""
    rollout, prompt = scored.rollout, scored.rollout.prompt
    return {
        "row": prompt.index,
        "file": prompt.file,
        "line": prompt.line,
        "dataset": prompt.dataset,
        "sample": rollout.sample,
        "messages": list(rollout.messages),
        "prompt_text": rollout.prompt_text,
        "teacher_name": scored.teacher,
        "teacher_prompt_text": scored.teacher_prompt_text,
    }


def _kl(trainer: Column, teacher: Column | None) -> dict[str, Any]:
    """A token's kl, their sum and mean over the trained tokens; null without a teacher or trained token."""
    if teacher is None:
        return {"kl": None, "kl_sum": None, "kl_mean": None}
    pairs = zip(trainer, teacher, strict=True)
    kl = [None if old is None or other is None else old - other for old, other in pairs]
    values = [value for value in kl if value is not None]
    total = sum(values) if values else None
    mean = None if total is None else total / len(values)
    return {"kl": _rounded(kl), "kl_sum": total, "kl_mean": mean}


def _pieces(ids: Sequence[int], pieces: Pieces) -> list[str]:
    texts = pieces(ids)
    if len(texts) != len(ids):
        raise ValueError(f"{len(texts)} text pieces for {len(ids)} ids")
    return texts


def _check_lengths(columns: Mapping[str, Column], expected: int) -> None:
    for name, values in columns.items():
        if len(values) != expected:
            raise ValueError(f"column {name!r} has {len(values)} entries, expected {expected}")


def _known(values: Sequence[float | None]) -> Column:
    """None for NaN: what the teacher gave no value."""
    return [None if value is None or math.isnan(value) else value for value in values]


def _where(values: Sequence[float], mask: Sequence[bool]) -> Column:
    return [value if flag else None for value, flag in zip(values, mask, strict=True)]


def _rounded(values: Sequence[float | None]) -> Column:
    """Micronats are enough to look at, and half the bytes."""
    return [None if value is None else round(value, DECIMALS) for value in values]

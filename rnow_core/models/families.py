"""Requests that begin with the same tokens, as a tree of shared prefixes. Pure: depends on the requests alone.

A teacher's context is in front of every request of a step, and a whole prompt in front of the samples of one group:
two levels, which need not be known beforehand, because sorting the ids shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from rnow_core.types import ScoreRequest

SAVED_AT_LEAST = 512
"""Tokens that sharing a prefix must save: a forward pass of its own costs about as much as some hundred tokens."""

SHORTEST = 32
"""Tokens that a prefix must have beyond the one that it continues."""

REPLIES = 4
"""What stands behind the first prefix may be at most so many times longer, on average: attention behind a prefix has a
mask, which GPUs compute with slower kernels than plainly causal attention, and long replies spend their time there."""

GRAIN = 16
"""A prefix of different prompts ends at a multiple of this. Where exactly they part depends on the rows of the step; a
multiple is nearly always the same in all steps, so that keys and values of a context can be kept for the next one."""


@dataclass(frozen=True, slots=True)
class Family:
    """Requests that share their first `length` ids; `whole` when these are all that any of them has before its reply.

    `rows` (numbers of requests) continue at once behind the prefix, `children` share more of it.
    """

    length: int
    whole: bool
    rows: tuple[int, ...]
    children: tuple[Family, ...]


def families(requests: Sequence[ScoreRequest]) -> Family:
    """The tree of all requests that have something to score, below a prefix of length 0.

    The token before the first scored one is never shared: what is scored is read off its hidden state.
    """
    prompts = {n: r.ids[: r.start - 1] for n, r in enumerate(requests) if r.start < len(r.ids)}
    order = sorted(prompts, key=lambda number: prompts[number])
    keys = [prompts[number] for number in order]
    common = [_common(a, b) for a, b in pairwise(keys)]
    totals = [len(requests[number].ids) for number in order]
    return _grow(order, [len(key) for key in keys], totals, common, 0, len(order), 0, whole=False)


def _grow(
    order: Sequence[int],
    lengths: Sequence[int],
    totals: Sequence[int],
    common: Sequence[int],
    low: int,
    high: int,
    depth: int,
    *,
    whole: bool,
) -> Family:
    """The family of order[low:high], which share `depth` ids.

    `lengths` are those of what may be shared, `totals` of all ids; common[i] is what i and i + 1 share.
    """
    rows: list[int] = []
    children: list[Family] = []
    pending = [(low, high)]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            rows += order[first:last]
            continue
        shared = min(common[first : last - 1])
        same = max(lengths[first:last]) == shared
        cut = shared if same else shared - shared % GRAIN
        if _pays(last - first, cut - depth, 0 if depth else sum(totals[first:last])):
            children.append(_grow(order, lengths, totals, common, first, last, cut, whole=same))
        elif same:
            rows += order[first:last]
        else:
            ends = [i + 1 for i in range(first, last - 1) if common[i] == shared]
            pending += reversed(list(zip([first, *ends], [*ends, last], strict=True)))
    return Family(depth, whole, tuple(sorted(rows)), tuple(children))


def _pays(rows: int, shared: int, total: int) -> bool:
    """Whether to forward `shared` tokens of so many rows once.

    `total`: all their tokens, 0 where they share some already.
    """
    if shared < SHORTEST or (rows - 1) * shared < SAVED_AT_LEAST:
        return False
    return total <= rows * shared * (1 + REPLIES)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix, by bisection over slices, which compare fast."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

"""How much of its replies a student has said before, in the same reply."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

NGRAM = 8
"""Tokens of a sequence that counts as repeated: long enough that tables, code and mathematics stay far below a loop."""

_FACTORS = np.random.default_rng(0).integers(1 << 64, size=NGRAM, dtype=np.uint64) | np.uint64(1)
"""Of a multilinear hash modulo 2**64, fixed: two sequences of a reply share a code about once in 1e11 replies."""


def repetition(replies: Iterable[Sequence[int]]) -> float:
    """Share of the replies' 8-grams of token ids that are not the first of their kind in their reply.

    (all - distinct) / all, with both counted reply by reply and then summed, so that a reply counts by its length. It
    is seq-rep-n of Welleck et al. 2019 (Neural Text Generation with Unlikelihood Training) over a whole step. NaN when
    every reply is shorter than 8 tokens.
    """
    every = distinct = 0
    for reply in replies:
        if len(reply) >= NGRAM:
            codes = np.sort(sliding_window_view(np.asarray(reply, dtype=np.uint64), NGRAM) @ _FACTORS)
            every += len(codes)
            distinct += 1 + int(np.count_nonzero(codes[1:] != codes[:-1]))
    return (every - distinct) / every if every else float("nan")


def sampled_spans(ids_T: Sequence[int], mask_T: Sequence[bool]) -> Iterator[Sequence[int]]:
    """The ids of each sampled turn: what stands between two of them is not the student's and no part of a reply."""
    edges = np.flatnonzero(np.diff(np.asarray(mask_T, dtype=bool), prepend=False, append=False)).tolist()
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield ids_T[start:end]

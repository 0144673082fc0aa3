"""The teacher's K most likely ids at every scored position: the record, its limits, and how vLLM's answer is read.

Axis suffixes: N scored positions of a request, K ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.top_limits import MAX_ENTRIES, MAX_TOP
from rnow_core.models.vllm_completion import FLOOR
from rnow_core.models.vllm_scores import Entry, checked_logprob, given_logprob
from rnow_core.types import ScoreRequest


@dataclass(frozen=True, slots=True, eq=False)
class TopScores:
    """What the teacher says of the N positions of one request.

    `ids_NK` are its K most likely ids, the likeliest first and equal ones by id; `logprobs_NK` theirs; `sampled_N`
    the logprob of the id that stands there, which may be one of the K.
    """

    ids_NK: NDArray[np.int64]
    logprobs_NK: NDArray[np.float32]
    sampled_N: NDArray[np.float32]


def check_top(k: int, tokens: int, server: str, *, max_logprobs: int | None, vocab_size: int | None) -> None:
    """Refuse what cannot be asked, before any request: `tokens` counts all ids of the requests, prompts included.

    Args:
        k: ids a position.
        tokens: ids of all requests of one call.
        server: how messages call it.
        max_logprobs: the server's `--max-logprobs`; None when unknown (the server itself refuses more).
        vocab_size: the teacher's rows; None when unknown.

    Raises:
        RnowError: naming the numbers and the fix.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    if k > MAX_TOP:
        raise RnowError(
            f"algorithm.topk is {k}, a served teacher gives at most {MAX_TOP} ids a position",
            f"set algorithm.topk to {MAX_TOP} or less, or rollout.engine to hf",
        )
    if max_logprobs is not None and k > max_logprobs:
        raise RnowError(
            f"algorithm.topk is {k}, {server} gives at most {max_logprobs} ids a position",
            f"start it with --max-logprobs {k}, or lower algorithm.topk",
        )
    # vLLM compares K with --max-logprobs only; an engine that is asked for more ids than there are ends.
    if vocab_size is not None and k > vocab_size:
        raise RnowError(
            f"algorithm.topk is {k}, {server} has a vocabulary of {vocab_size}",
            f"set algorithm.topk to {vocab_size} or less",
        )
    if tokens * k > MAX_ENTRIES:
        raise RnowError(
            f"algorithm.topk {k} for {tokens} tokens is {tokens * k} JSON entries at once, {server} is asked for "
            f"at most {MAX_ENTRIES}",
            f"set algorithm.topk to {MAX_ENTRIES // tokens}, lower data.batch_size, data.group_size or "
            "rollout.max_tokens, or set rollout.engine to hf",
        )


def read_top(found: list[Entry], request: ScoreRequest, k: int, server: str) -> TopScores:
    """The K most likely ids of every scored position, out of its entry of K ids, or K and the sampled one.

    Among ids as likely as the K-th, the server has already chosen; the lower id counts only among those it sent.
    Logits in half precision make such ties common, and no few ids more would be sure to hold all of them.

    Raises:
        RunFailed: too few or too many ids, a value that is no logprob, or an id sent beside the K most likely that
            is likelier than one of them.
    """
    ids, logprobs = _columns(found, request, k, server)
    order = np.lexsort((ids, -logprobs), axis=-1)
    ids, logprobs = np.take_along_axis(ids, order, -1), np.take_along_axis(logprobs, order, -1)
    tokens = request.ids[request.start :]
    sampled = [
        given_logprob(entry, token, position, server)
        for position, (entry, token) in enumerate(zip(found, tokens, strict=True), request.start)
    ]
    scores = TopScores(ids[:, :k], logprobs[:, :k], np.array(sampled, np.float32))
    _check(scores, logprobs[:, k], request, server)
    return scores


def _columns(
    found: list[Entry], request: ScoreRequest, k: int, server: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids and logprobs as sent, (N, K + 1); where the sampled id is one of the K, a column of minus infinity."""
    ids = np.zeros((len(found), k + 1), np.int64)
    logprobs = np.full((len(found), k + 1), -np.inf, np.float32)
    for row, entry in enumerate(found):
        if not k <= len(entry) <= k + 1:
            raise RunFailed(
                f"{server} sent {len(entry)} ids for position {request.start + row}, expected {k} or {k + 1}"
            )
        ids[row, : len(entry)] = [int(token) for token in entry]
        logprobs[row, : len(entry)] = [value["logprob"] for value in entry.values()]
    return ids, logprobs


def _check(scores: TopScores, beside_N: NDArray[np.float32], request: ScoreRequest, server: str) -> None:
    """`beside_N` is the least likely id that was sent beside the K, minus infinity where there was none."""
    for row, column in np.argwhere(~(np.isfinite(scores.logprobs_NK) & (scores.logprobs_NK > FLOOR))):
        value = float(scores.logprobs_NK[row, column])
        checked_logprob(value, int(scores.ids_NK[row, column]), request.start + int(row), server)
    mass = np.exp(scores.logprobs_NK.astype(np.float64)).sum(-1)
    if (mass > 1.001).any():
        raise RunFailed(
            f"{server}: the most likely ids of a position have a probability of {mass.max():.3f} together",
            "start it with --logprobs-mode raw_logprobs",
        )
    wrong = np.flatnonzero((beside_N > -np.inf) & (beside_N != scores.sampled_N))
    if wrong.size:
        raise RunFailed(
            f"{server} sent an id of position {request.start + int(wrong[0])} that is neither the sampled one nor "
            "one of the most likely"
        )

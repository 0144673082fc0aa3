"""Divergence head: `token_divergence` (full, reverse) against autograd through full tables of logits, in the same run.

    python benchmarks/divergence.py [--repeats 9] [--threads 2]

Prints one JSON line. Forward and backward to the hidden states of 256 float32 tokens, student of H = 256, teacher of
512, both heads frozen, the two ways alternating (ours gives logprobs and entropies as well); milliseconds as median
and quartiles. `topk` is a line of its own: another objective, of 64 ids and a tail. Peak memory is the growth of the
resident size of a process of its own over one such call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from alternating import cpu_name, milliseconds, peak_in_own_process, peak_mib
from torch import Tensor

from rnow_core.algo.divergence import CHUNK_BYTES, token_divergence
from rnow_core.algo.divergence_full import FullTeacher
from rnow_core.algo.divergence_top import TopTeacher
from rnow_core.algo.events import Divergence
from rnow_core.algo.projection import Projection
from rnow_core.algo.top import top_logprobs

TOKENS, HIDDEN, TEACHER_HIDDEN, K = 256, 256, 512, 64
VOCABULARIES = (2048, 32768, 151936)


@dataclass(frozen=True)
class Given:
    """Hidden states and heads of student and teacher, the sampled ids, and the teacher's likeliest ids."""

    hidden_NH: Tensor
    weight_VH: Tensor
    ids_N: Tensor
    teacher_NH: Tensor
    teacher_VH: Tensor
    top: TopTeacher


Way = Callable[[Given], Tensor]


def ours(given: Given) -> Tensor:
    """Chunked, gradient rows made in the forward pass."""
    teacher = FullTeacher(given.teacher_NH, Projection(given.teacher_VH))
    return token_divergence(given.hidden_NH, given.weight_VH, given.ids_N, teacher, Divergence("reverse"))[0]


def topk(given: Given) -> Tensor:
    """The same with a teacher of a few ids."""
    return token_divergence(given.hidden_NH, given.weight_VH, given.ids_N, given.top, Divergence("reverse"))[
        0
    ]


def naive(given: Given) -> Tensor:
    """The textbook way."""
    mine = torch.log_softmax(given.hidden_NH @ given.weight_VH.T, -1)
    with torch.no_grad():
        other = torch.log_softmax(given.teacher_NH @ given.teacher_VH.T, -1)
    return (mine.exp() * (mine - other)).sum(-1)


WAYS: dict[str, Way] = {"chunked": ours, "naive": naive, "topk": topk}


def draw(vocabulary: int) -> Given:
    """The teacher's likeliest ids are found in chunks of a few tokens, which no measurement of memory sees."""
    torch.manual_seed(0)
    hidden_NH = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    weight_VH, ids_N = torch.randn(vocabulary, HIDDEN) * 0.1, torch.randint(vocabulary, (TOKENS,))
    teacher_NH, teacher_VH = (
        torch.randn(TOKENS, TEACHER_HIDDEN),
        torch.randn(vocabulary, TEACHER_HIDDEN) * 0.1,
    )
    ids_NS, logprobs_NS, _ = top_logprobs(
        teacher_NH, teacher_VH, ids_N, K, rows=vocabulary, chunk_bytes=2**22
    )
    return Given(hidden_NH, weight_VH, ids_N, teacher_NH, teacher_VH, TopTeacher(ids_NS, logprobs_NS))


def seconds(way: Way, given: Given) -> float:
    begin = time.perf_counter()
    way(given).sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - begin


def measure(vocabulary: int, repeats: int) -> dict[str, object]:
    given = draw(vocabulary)
    values = [way(given).detach() for way in (ours, naive)]
    torch.testing.assert_close(*values, rtol=1e-3, atol=1e-4)
    times = milliseconds(
        {name: partial(seconds, way, given) for name, way in WAYS.items()}, repeats, warm_up=1
    )
    return {
        name: {**taken, "peak_extra_mib": peak_in_own_process(__file__, name, vocabulary)}
        for name, taken in times.items()
    }


def print_peak(name: str, vocabulary: int) -> None:
    given = draw(vocabulary)
    seconds(WAYS[name], draw(64))
    before = peak_mib()
    seconds(WAYS[name], given)
    print(round(peak_mib() - before, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES)
    parser.add_argument("--peak-of", nargs=2, metavar=("WAY", "V"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        print_peak(arguments.peak_of[0], int(arguments.peak_of[1]))
        return
    result = {
        "benchmark": "divergence",
        "tokens": TOKENS,
        "hidden": HIDDEN,
        "teacher_hidden": TEACHER_HIDDEN,
        "chunk_bytes": CHUNK_BYTES,
        "by_vocabulary": {str(v): measure(v, arguments.repeats) for v in arguments.vocabularies},
        "repeats": arguments.repeats,
        "threads": arguments.threads,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

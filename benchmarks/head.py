"""Logprob head: `token_logprobs` against autograd through the full table of logits, in the same run.

    python benchmarks/head.py [--repeats 15] [--threads 2]

Prints one JSON line. Forward and backward to the hidden states of 256 float32 tokens, H = 256, frozen head,
the two ways alternating (ours gives the entropies as well); milliseconds as median and quartiles. Peak memory
is the growth of the resident size of a process of its own over one such call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial

import torch
from alternating import cpu_name, milliseconds, peak_in_own_process, peak_mib
from torch import Tensor

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.projection import CHUNK_BYTES

TOKENS, HIDDEN = 256, 256
VOCABULARIES = (2048, 32768)
Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def chunked(hidden_NH: Tensor, weight_VH: Tensor, ids_N: Tensor) -> Tensor:
    """Ours."""
    return token_logprobs(hidden_NH, weight_VH, ids_N)[0]


def full(hidden_NH: Tensor, weight_VH: Tensor, ids_N: Tensor) -> Tensor:
    """The textbook way."""
    return torch.log_softmax(hidden_NH @ weight_VH.T, -1).gather(1, ids_N[:, None])[:, 0]


WAYS: dict[str, Way] = {"chunked": chunked, "full": full}


def draw(vocabulary: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden_NH = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    return hidden_NH, torch.randn(vocabulary, HIDDEN) * 0.1, torch.randint(vocabulary, (TOKENS,))


def seconds(way: Way, given: tuple[Tensor, Tensor, Tensor]) -> float:
    begin = time.perf_counter()
    way(*given).sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - begin


def measure(vocabulary: int, repeats: int) -> dict[str, object]:
    given = draw(vocabulary)
    times = milliseconds(
        {name: partial(seconds, way, given) for name, way in WAYS.items()}, repeats, warm_up=2
    )
    return {
        name: {**taken, "peak_extra_mib": peak_in_own_process(__file__, name, vocabulary)}
        for name, taken in times.items()
    }


def print_peak(name: str, vocabulary: int) -> None:
    given = draw(vocabulary)
    seconds(WAYS[name], (given[0], given[1][:16], given[2] % 16))
    before = peak_mib()
    seconds(WAYS[name], given)
    print(round(peak_mib() - before, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peak-of", nargs=2, metavar=("WAY", "V"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of[0], int(arguments.peak_of[1]))
        return
    torch.set_num_threads(arguments.threads)
    result = {
        "benchmark": "head",
        "tokens": TOKENS,
        "hidden": HIDDEN,
        "chunk_bytes": CHUNK_BYTES,
        "by_vocabulary": {str(v): measure(v, arguments.repeats) for v in VOCABULARIES},
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

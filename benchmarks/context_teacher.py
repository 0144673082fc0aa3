"""Scoring behind a long teacher context: the context forwarded once, against once for every sample.

    python benchmarks/context_teacher.py [--repeats 5] [--threads 2]

Prints one JSON line. A context of 2,000 tokens, 64 samples of 128 tokens behind prompts of 32 (16 prompts, and one
prompt for all), a Qwen3 of hidden size 256 and 4 layers with random weights, vocabulary 2,048, float32. Both ways
apply the head to the samples' tokens only. They alternate, and their logprobs are asserted to be the same; beside other
work the processor's seconds of all threads say more than those on the wall. `shared` is
a first step, `kept` a later one of a frozen teacher, which still holds the context's keys and values.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import hardware
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.utils import logging as transformers_logging

from rnow_core.algo.head import token_logprobs
from rnow_core.models.causal_lm import CausalLM, load_frozen
from rnow_core.models.microbatch import token_budget
from rnow_core.models.prefix_cache import PrefixScorer
from rnow_core.models.scoring import score
from rnow_core.types import ScoreRequest

CONTEXT, PROMPT, SAMPLES, REPLY = 2000, 32, 64, 128
VOCABULARY = 2048
TOLERANCE = 1e-4
LIMIT = 5.0
Way = Callable[[], list[list[float]]]


def make_model(folder: Path) -> CausalLM:
    """The teacher, with random weights."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        initializer_range=0.1,  # large enough that its distributions are not flat
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=2,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return load_frozen(str(folder), device=torch.device("cpu"))


def make_requests(prompts: int) -> list[ScoreRequest]:
    """The samples of a step with so many prompts, all behind one context."""
    draw = torch.Generator().manual_seed(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=draw).tolist())

    context = ids(CONTEXT)
    asked = [ids(PROMPT) for _ in range(prompts)]
    return [
        ScoreRequest(context + asked[n * prompts // SAMPLES] + ids(REPLY), CONTEXT + PROMPT)
        for n in range(SAMPLES)
    ]


def measure(lm: CausalLM, prompts: int, repeats: int) -> dict[str, Any]:
    """Seconds of each way, and the largest difference of a logprob."""
    requests, budget = make_requests(prompts), token_budget(None, "cpu")
    kept = PrefixScorer(lm, token_logprobs, budget, keep=True)
    kept.score(requests)
    ways: dict[str, Way] = {
        "whole": lambda: score(lm, requests, token_logprobs, budget),
        "shared": lambda: PrefixScorer(lm, token_logprobs, budget, keep=False).score(requests),
        "kept": lambda: kept.score(requests),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    worst = 0.0
    for _ in range(repeats):
        answers = {}
        for name, way in ways.items():
            begin, worked = time.perf_counter(), time.process_time()
            answers[name] = torch.tensor(way())
            seconds[name].append(time.perf_counter() - begin)
            processor[name].append(time.process_time() - worked)
        gaps = [(answers["whole"] - answers[name]).abs().max().item() for name in ("shared", "kept")]
        worst = max([worst, *gaps])
    assert worst < TOLERANCE, f"logprobs differ by {worst}, expected less than {TOLERANCE}"
    ratios = [whole / shared for whole, shared in zip(seconds["whole"], seconds["shared"], strict=True)]
    return {
        "seconds": {name: round(statistics.median(values), 3) for name, values in seconds.items()},
        "spread": {name: [round(min(v), 3), round(max(v), 3)] for name, v in seconds.items()},
        "processor_seconds": {name: round(statistics.median(v), 3) for name, v in processor.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "largest_gap": float(f"{worst:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        lm = make_model(Path(folder))
    by_prompts = {str(prompts): measure(lm, prompts, arguments.repeats) for prompts in (16, 1)}
    result = {
        "benchmark": "context_teacher",
        "context": CONTEXT,
        "prompt": PROMPT,
        "samples": SAMPLES,
        "reply": REPLY,
        "by_prompts": by_prompts,
        "limit": LIMIT,
        "passed": all(found["ratio"] >= LIMIT for found in by_prompts.values()),
        "load": [round(value, 1) for value in os.getloadavg()],
        "hardware": hardware(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

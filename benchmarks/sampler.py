"""Tokens per second of the sampler against `generate` of transformers, in one process, turn by turn.

Same weights, prompts and number of new tokens, key/value cache on, temperature 1, no truncation. Prints one
JSON line. `generate` decodes until the longest reply ends; the `ragged` case counts the tokens asked for.

    python benchmarks/sampler.py [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen3Config

from rnow_core.models.causal_lm import CausalLM, load_frozen
from rnow_core.models.device import DeviceThread, pick_device
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.types import SamplingParams


@dataclass(frozen=True)
class Case:
    """One workload: sizes of the model, and a prompt and a reply length for every row."""

    name: str
    hidden: int
    layers: int
    vocab: int
    prompts: list[list[int]]
    replies: list[int]

    @property
    def tokens(self) -> int:
        """Sampled tokens that count."""
        return sum(self.replies)


def cases() -> list[Case]:
    rng = random.Random(0)

    def prompts(count: int, vocab: int, shortest: int, longest: int) -> list[list[int]]:
        return [[rng.randrange(vocab) for _ in range(rng.randint(shortest, longest))] for _ in range(count)]

    groups = [prompt for prompt in prompts(64, 40, 12, 12) for _ in range(8)]
    ragged = [min(128, 8 + int(rng.expovariate(1 / 32))) for _ in range(64)]
    return [
        Case("demo: 64 prompts x 8, 12 + 12 tokens", 128, 3, 40, groups, [12] * 512),
        Case("64 rows, 64 + 128 tokens", 256, 4, 2048, prompts(64, 2048, 64, 64), [128] * 64),
        Case("ragged: 64 rows, 16..96 + 8..128 tokens", 256, 4, 2048, prompts(64, 2048, 16, 96), ragged),
    ]


def build(case: Case) -> CausalLM:
    config = Qwen3Config(
        vocab_size=case.vocab,
        hidden_size=case.hidden,
        intermediate_size=3 * case.hidden,
        num_hidden_layers=case.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=case.hidden // 4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        return load_frozen(folder, device=pick_device())


def run_sampler(case: Case, lm: CausalLM, device: DeviceThread) -> None:
    async def every_row() -> None:
        sampler = HFSampler(lm, device, max_slots=512)
        params = [SamplingParams(max_tokens=reply, stop_ids=()) for reply in case.replies]
        jobs = [sampler.sample(case.prompts[row], params[row], row) for row in range(len(params))]
        done = await asyncio.gather(*jobs)
        assert sum(len(completion.ids) for completion in done) == case.tokens

    asyncio.run(every_row())


def run_generate(case: Case, lm: CausalLM, device: DeviceThread) -> None:
    width = max(map(len, case.prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in case.prompts], device=lm.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in case.prompts], device=lm.device)
    longest = max(case.replies)
    config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=longest, pad_token_id=0, use_cache=True)
    output = device.call(lm.model.generate, ids, attention_mask=mask, generation_config=config)
    assert output.shape[1] == width + longest


def measure(case: Case, device: DeviceThread, repeats: int) -> dict[str, object]:
    lm = build(case)
    contenders: dict[str, Callable[[Case, CausalLM, DeviceThread], None]] = {
        "sampler": run_sampler,
        "generate": run_generate,
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, work in contenders.items():
            start = time.perf_counter()
            work(case, lm, device)
            if turn:  # the first turn warms up
                rates[name].append(case.tokens / (time.perf_counter() - start))
    ratios = [ours / theirs for ours, theirs in zip(rates["sampler"], rates["generate"], strict=True)]
    summary = {
        name: {"median": round(statistics.median(found)), "min": round(min(found)), "max": round(max(found))}
        for name, found in rates.items()
    }
    return {"case": case.name, "tokens_per_second": summary, "ratio": round(statistics.median(ratios), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    device = DeviceThread(options.threads)
    results = [measure(case, device, options.repeats) for case in cases()]
    device.close()
    print(json.dumps({"benchmark": "sampler", "threads": options.threads, "results": results}))


if __name__ == "__main__":
    main()

"""Tokens per second through our sampler against vLLM's own benchmark client, on the same server.

Same prompts, reply lengths, seeds and sampling parameters, turn by turn; prints one JSON line. The limit is a median
ratio of 0.95.

    python benchmarks/rollout.py [--requests 128] [--max-tokens 128] [--repeats 5] [--model FOLDER_OR_ID]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import Size, hardware, make_project

from rnow_core.models.vllm_command import ServerSpec
from rnow_core.models.vllm_completion import completion_body
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_probe import probe
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.types import SamplingParams

LIMIT = 0.95
SIZE = Size((256, 4), (64, 1), 2048, 1, 1, 8, 8)


def make_prompts(count: int, length: int, salt: int) -> list[list[int]]:
    """Groups of four equal prompts; new ones for every turn, so that no turn profits from the prefix cache."""
    rng = random.Random(salt)
    groups = [[rng.randrange(10, 1000) for _ in range(length)] for _ in range((count + 3) // 4)]
    return [prompt for prompt in groups for _ in range(4)][:count]


def ours(url: str, prompts: list[list[int]], params: SamplingParams, concurrency: int) -> float:
    async def work() -> float:
        client = VLLMClient(Endpoint("the server", url=url), max_in_flight=concurrency)
        sampler = VLLMSampler(client, context_window=(await probe(client)).context_window)
        start = time.perf_counter()
        done = await asyncio.gather(*[sampler.sample(ids, params, key) for key, ids in enumerate(prompts)])
        seconds = time.perf_counter() - start
        await client.close()
        return sum(len(completion.ids) for completion in done) / seconds

    return asyncio.run(work())


def theirs(url: str, prompts: list[list[int]], params: SamplingParams, concurrency: int) -> float:
    serve = importlib.import_module("vllm.benchmarks.serve")
    datasets = importlib.import_module("vllm.benchmarks.datasets")
    body = completion_body("base", [], params, 0, "theirs")
    same = {name: body[name] for name in body.keys() - {"model", "prompt", "stream", "seed", "max_tokens"}}
    requests = [
        datasets.SampleRequest(
            prompt=ids,
            prompt_len=len(ids),
            expected_output_len=params.max_tokens,
            request_id=str(key),
            request_overrides={"seed": key},
        )
        for key, ids in enumerate(prompts)
    ]
    with contextlib.redirect_stdout(sys.stderr):
        result: dict[str, Any] = asyncio.run(
            serve.benchmark(
                task_type=serve.TaskType.GENERATION,
                endpoint_type="openai",
                api_url=f"{url}/v1/completions",
                base_url=url,
                model_id="base",
                model_name="base",
                tokenizer=None,
                input_requests=requests,
                logprobs=0,
                request_rate=float("inf"),
                burstiness=1.0,
                disable_tqdm=True,
                num_warmups=0,
                profile=False,
                selected_percentile_metrics=[],
                selected_percentiles=[99.0],
                ignore_eos=True,
                goodput_config_dict={},
                max_concurrency=concurrency,
                lora_modules=None,
                extra_headers=None,
                extra_body=same,
                ready_check_timeout_sec=0,
            )
        )
    expected = len(prompts) * params.max_tokens
    assert result["total_output_tokens"] == expected, f"{result['total_output_tokens']} of {expected} tokens"
    return float(result["output_throughput"])


def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    params = SamplingParams(max_tokens=options.max_tokens, stop_ids=())
    contenders = {"ours": ours, "theirs": theirs}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.repeats + 1):
        order = list(contenders) if turn % 2 else list(reversed(contenders))
        for place, name in enumerate(order):
            prompts = make_prompts(options.requests, options.prompt_tokens, 2 * turn + place)
            rate = contenders[name](url, prompts, params, options.concurrency)
            if turn:  # the first turn warms up
                rates[name].append(rate)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    ratio = medians["ours"] / medians["theirs"]
    spread = {name: [round(min(found)), round(max(found))] for name, found in rates.items()}
    return {
        "tokens_per_second": {name: round(rate) for name, rate in medians.items()},
        "spread": spread,
        "ratio": round(ratio, 3),
        "limit": LIMIT,
        "passed": ratio >= LIMIT,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="default: a small model with random weights")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print(json.dumps({"benchmark": "rollout", "skipped": "vLLM is not installed"}))
        return
    from vllm_process import serving

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or str(make_project(folder, SIZE, 1) / "student")
        spec = ServerSpec(
            "student",
            model,
            folder / "server.log",
            max_model_len=options.prompt_tokens + options.max_tokens + 8,
            max_num_seqs=options.concurrency,
            on_gpu=torch.cuda.is_available(),
        )
        with serving(spec, folder) as url:
            result = measure(url, options)
    shape = {
        "requests": options.requests,
        "prompt_tokens": options.prompt_tokens,
        "max_tokens": options.max_tokens,
    }
    print(json.dumps({"benchmark": "rollout", **shape, **result, "hardware": hardware()}))


if __name__ == "__main__":
    main()

"""Milliseconds from the end of `optimizer.step` to the first token sampled with the new weights.

A small adapter is trained on a batch, published, loaded into a running vLLM server and used for one request of one
token. Prints one JSON line; the limit is a median of 100 ms.

    python benchmarks/sync.py [--repeats 15] [--rank 32] [--model FOLDER_OR_ID]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Size, hardware, make_project

from rnow_core.algo.head import token_logprobs
from rnow_core.algo.objective import PolicyObjective
from rnow_core.models.causal_lm import load_student
from rnow_core.models.device import DeviceThread, pick_device
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.optimizer import OptimizerSettings
from rnow_core.models.vllm_command import ServerSpec
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.types import Batch, SamplingParams

LIMIT_MS = 100.0
SIZE = Size((256, 4), (64, 1), 2048, 1, 1, 8, 8)
WINDOW = 256
PROMPT = list(range(10, 42))
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_batch() -> Batch:
    """Four rows of 32 tokens, half of them trained."""
    rng = random.Random(0)
    rows, length = 4, 32
    mask = [position % length >= length // 2 for position in range(rows * length)]
    return Batch(
        ids=[rng.randrange(10, 1000) for _ in mask],
        lengths=[length] * rows,
        mask=mask,
        mu=[-7.0 if trained else 0.0 for trained in mask],
        teacher=[-7.0 * rng.random() if trained else 0.0 for trained in mask],
        task=[0.0] * len(mask),
    )


def make_learner(model: str, rank: int, device: DeviceThread) -> HFLearner:
    """A learner with an adapter on every linear layer."""
    lm = load_student(model, rank=rank, alpha=2.0 * rank, device=pick_device())
    return HFLearner(
        lm,
        device,
        objective=PolicyObjective(adv_tau=0.0, teacher_tau=1.0, student_tau=1.0),
        token_logprobs=token_logprobs,
        settings=OptimizerSettings(learning_rate=1e-3, total_steps=1000),
    )


async def measure(url: str, learner: HFLearner, folder: Path, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each part, one value a repeat; the first two warm up and are left out."""
    client = VLLMClient(Endpoint("the server", url=url))
    sampler = VLLMSampler(client, context_window=WINDOW)
    batch, params = make_batch(), SamplingParams(max_tokens=1, stop_ids=())
    parts: dict[str, list[float]] = {"publish": [], "load": [], "first_token": [], "total": []}
    for step in range(1, repeats + 3):
        await asyncio.to_thread(learner.update, batch, step)
        start = time.perf_counter()
        version = learner.publish(folder / "adapters")
        published = time.perf_counter()
        await sampler.use(version)
        loaded = time.perf_counter()
        completion = await sampler.sample(PROMPT, params, step)
        end = time.perf_counter()
        assert completion.policy == version.name
        if step > 2:
            marks = (published - start, loaded - published, end - loaded, end - start)
            for part, seconds in zip(parts.values(), marks, strict=True):
                part.append(1e3 * seconds)
    await sampler.close()
    await client.close()
    return parts


def summary(parts: dict[str, list[float]]) -> dict[str, Any]:
    """Median, smallest and largest of every part."""

    def figure(found: list[float]) -> dict[str, float]:
        return {
            "median": round(statistics.median(found), 1),
            "min": round(min(found), 1),
            "max": round(max(found), 1),
        }

    median = statistics.median(parts["total"])
    return {
        "milliseconds": {name: figure(found) for name, found in parts.items()},
        "limit": LIMIT_MS,
        "passed": median <= LIMIT_MS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", help="default: a small model with random weights")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print(json.dumps({"benchmark": "sync", "skipped": "vLLM is not installed"}))
        return
    from vllm_process import serving

    device = DeviceThread(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or str(make_project(folder, SIZE, 1) / "student")
        on_gpu = pick_device().type == "cuda"
        spec = ServerSpec(
            "student",
            model,
            folder / "server.log",
            enable_lora=True,
            lora_rank=options.rank,
            max_model_len=WINDOW,
            lora_modules=LINEAR,
            on_gpu=on_gpu,
            gpu_memory_utilization=0.45,
        )
        with serving(spec, folder) as url:
            learner = make_learner(model, options.rank, device)
            parts = asyncio.run(measure(url, learner, folder, options.repeats))
    device.close()
    print(json.dumps({"benchmark": "sync", "rank": options.rank, **summary(parts), "hardware": hardware()}))


if __name__ == "__main__":
    main()

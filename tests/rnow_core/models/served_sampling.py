"""What the tests of the served sampler and its adapters share: prompts, and a sampler in a loop of its own."""

import asyncio

from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.types import SamplingParams, ScoreRequest

WINDOW = 128
TOLERANCE = 1e-3
PARAMS = SamplingParams(max_tokens=20, stop_ids=(3, 4, 5))
PROMPTS = [(6, 7, 8, 9, 10 + i % 4, *range(10, 30)) for i in range(8)]


def with_sampler(vllm_student, work, **changes):
    """Run `work(sampler, client)` in a loop of its own."""

    async def main():
        client = VLLMClient(Endpoint("the student's server", socket=vllm_student.socket))
        sampler = VLLMSampler(client, context_window=WINDOW, vocab_size=48, **changes)
        try:
            return await work(sampler, client)
        finally:
            await sampler.close()
            await client.close()

    return asyncio.run(main())


async def sample_all(sampler, params=PARAMS, prompts=PROMPTS):
    return await asyncio.gather(*[sampler.sample(ids, params, key) for key, ids in enumerate(prompts)])


def requests_of(done, prompts=PROMPTS):
    return [ScoreRequest((*ids, *one.ids), len(ids)) for ids, one in zip(prompts, done, strict=True)]


def largest_gap(done, scored):
    pairs = zip(done, scored, strict=True)
    return max(abs(a - b) for one, row in pairs for a, b in zip(one.logprobs, row, strict=True))

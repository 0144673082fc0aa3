"""What the tests of served teachers share: requests, a client in a loop of its own, and the true distribution."""

import asyncio
import random

import torch
from transformers import AutoModelForCausalLM

from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.types import ScoreRequest

WINDOW = 128
TOLERANCE = 1e-3


def make_requests(count=12, seed=0):
    rng = random.Random(seed)
    rows = [tuple(rng.randrange(48) for _ in range(rng.randint(2, WINDOW - 1))) for _ in range(count)]
    requests = [ScoreRequest(ids, rng.randint(1, len(ids))) for ids in rows]
    return [ScoreRequest(rows[0], len(rows[0])), ScoreRequest(rows[1], 1), *requests]


def with_client(socket, work, url=None):
    """Run `work(client)` in a loop of its own."""

    async def main():
        client = VLLMClient(Endpoint("teacher 'base'", socket=None if url else socket, url=url))
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


def log_softmax_of(folder, request):
    """Log p of every id at every position of ids[start:], by transformers: (N, V)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([request.ids])).logits[0]
    return logits[request.start - 1 : -1].log_softmax(-1)


def assert_same(got, expected, tolerance=TOLERANCE):
    assert [len(row) for row in got] == [len(row) for row in expected]
    pairs = [pair for g, e in zip(got, expected, strict=True) for pair in zip(g, e, strict=True)]
    assert max(abs(a - b) for a, b in pairs) < tolerance

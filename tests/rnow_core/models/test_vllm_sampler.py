"""Sampling on a real vLLM server, compared with transformers."""

import asyncio
import math
from collections import Counter

import pytest
import torch
from served_sampling import (
    PARAMS,
    PROMPTS,
    TOLERANCE,
    WINDOW,
    largest_gap,
    requests_of,
    sample_all,
    with_sampler,
)

from rnow_core.algo.head import token_logprobs
from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.causal_lm import load_frozen
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.vllm_http import ServerError
from rnow_core.models.vllm_probe import probe, require_sampler
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.types import SamplingParams, ScoreRequest

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


@pytest.fixture(scope="module")
def reference(vllm_student):
    """transformers on the served weights: requests -> logprobs."""
    device = DeviceThread(1)
    lm = load_frozen(str(vllm_student.model_folder), device=torch.device("cpu"))
    teacher = HFTeacher(lm, device, token_logprobs=token_logprobs)
    yield lambda requests: asyncio.run(teacher.score(requests))
    device.close()


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.4}, {"top_k": 2}, {"temperature": 0.0}, {"repetition_penalty": 1.5}],
    ids=str,
)
def test_logprobs_are_raw_and_those_of_transformers(vllm_student, reference, changes):
    params = SamplingParams(max_tokens=20, stop_ids=(3,), **changes)
    done = with_sampler(vllm_student, lambda sampler, _: sample_all(sampler, params))
    assert largest_gap(done, reference(requests_of(done))) < TOLERANCE
    assert {one.policy for one in done} == {"base"}


def test_samples_follow_the_softmax_whatever_the_folder_asks_for(vllm_student, reference):
    """The folder's generation_config.json has top_k 3 and temperature 0.3."""
    assert '"top_k": 3' in (vllm_student.model_folder / "generation_config.json").read_text()
    params, prompt, count = SamplingParams(max_tokens=1, stop_ids=()), PROMPTS[0], 400
    done = with_sampler(vllm_student, lambda sampler, _: sample_all(sampler, params, [prompt] * count))
    scored = reference([ScoreRequest((*prompt, token), len(prompt)) for token in range(48)])
    expected = [math.exp(row[0]) for row in scored]
    seen = Counter(one.ids[0] for one in done)
    distance = sum(abs(seen[token] / count - p) for token, p in enumerate(expected)) / 2
    assert abs(sum(expected) - 1) < 1e-4
    assert distance < 0.25  # sampling from the three likeliest alone gives far more


def test_stop_ids_are_exactly_those_of_the_request(vllm_student):
    async def work(sampler, client):
        stopped = await sample_all(sampler, SamplingParams(60, stop_ids=tuple(range(6, 20))))
        free = await sample_all(sampler, SamplingParams(60, stop_ids=()), PROMPTS * 4)
        return stopped, free

    stopped, free = with_sampler(vllm_student, work)
    assert {one.stop_reason for one in stopped} == {"stop"}
    for one in stopped:
        assert one.ids[-1] in range(6, 20)
        assert not set(one.ids[:-1]) & set(range(6, 20))
        assert len(one.logprobs) == len(one.ids)
    assert {(one.stop_reason, len(one.ids)) for one in free} == {("length", 60)}
    assert any(2 in one.ids[:-1] for one in free)  # the model's own end of sequence does not stop it


def test_truncation_has_the_exact_reason(vllm_student):
    async def work(sampler, client):
        long = tuple(6 + i % 40 for i in range(WINDOW - 8))
        return (
            await sampler.sample(long, SamplingParams(50, ()), 1),
            await sampler.sample(long, SamplingParams(8, ()), 1),
        )

    context, length = with_sampler(vllm_student, work)
    assert (context.stop_reason, len(context.ids)) == ("context", 8)
    assert (length.stop_reason, len(length.ids)) == ("length", 8)


@pytest.mark.parametrize(
    ("ids", "params", "message"),
    [
        (
            (6,) * WINDOW,
            PARAMS,
            r"128 tokens, expected at most 127: the context window of the student's server",
        ),
        ((), PARAMS, "prompt is empty"),
        ((6, 48), PARAMS, "id 48 is beyond the 48 rows"),
        ((6,), SamplingParams(5, (), top_p=0.0), "top_p"),
    ],
    ids=["too long", "empty", "vocabulary", "parameters"],
)
def test_bad_requests_are_refused_before_they_are_sent(vllm_student, ids, params, message):
    with pytest.raises(RnowError, match=message):
        with_sampler(vllm_student, lambda sampler, _: sampler.sample(ids, params, 0))


def test_a_window_larger_than_the_servers_is_refused_by_the_server(vllm_student):
    async def work(_, client):
        await VLLMSampler(client, context_window=500).sample((6,) * 200, PARAMS, 0)

    with pytest.raises(ServerError, match=r"answered 400.*128"):
        with_sampler(vllm_student, work)


def test_the_probe_knows_the_server(vllm_student):
    async def work(sampler, client):
        facts = await probe(client, str(vllm_student.model_folder))
        with pytest.raises(RunFailed, match=r"serves base .*expected Qwen/Qwen3-8B"):
            await probe(client, "Qwen/Qwen3-8B")
        return facts

    facts = with_sampler(vllm_student, work)
    require_sampler(facts, "the server", adapters=True)
    assert (facts.model, facts.context_window) == (vllm_student.name, WINDOW)
    assert facts.raw_logprobs
    assert facts.token_ids
    assert facts.prompt_logprobs


def test_a_server_is_asked_by_its_own_name_for_the_model_that_the_config_names(vllm_student, reference):
    """The config knows a folder; the server was started with another --served-model-name."""
    folder = str(vllm_student.model_folder)
    assert folder != vllm_student.name

    async def work(sampler, client):
        with pytest.raises(ServerError, match="404"):
            await sampler.sample(PROMPTS[0], PARAMS, 0)
        sampler.ask_for((await probe(client, folder)).model)
        return await sample_all(sampler)

    done = with_sampler(vllm_student, work, base=folder)
    assert largest_gap(done, reference(requests_of(done))) < TOLERANCE

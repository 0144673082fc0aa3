"""Sampling and adapters on a real vLLM server, compared with transformers."""

import asyncio
import math
import shutil
from collections import Counter

import pytest
import torch
from fault_proxy import Fault, proxied
from learner_reference import make_batch, student

from rnow_core.algo.head import token_logprobs
from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.adapter import write_adapter
from rnow_core.models.causal_lm import load_frozen
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.vllm_adapters import LOAD, UNLOAD
from rnow_core.models.vllm_completion import read_completion
from rnow_core.models.vllm_http import Endpoint, ServerError, TryAgain, VLLMClient
from rnow_core.models.vllm_probe import probe, require_sampler
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.types import AdapterVersion, Completion, SamplingParams, ScoreRequest

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]
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


def test_a_trained_step_is_what_the_next_rollout_samples_from(vllm_student, learner, tmp_path):
    """Prefix caching is on and the prompts are the same: stale keys would show in the logprobs."""
    made = learner(student(str(vllm_student.model_folder)), learning_rate=0.05)
    batch = make_batch(vocab=48)
    versions = []
    for step in (1, 2):
        made.update(batch, step)
        versions.append(made.publish(tmp_path))

    async def work(sampler, client):
        base = await sample_all(sampler)
        await sampler.use(versions[0])
        first = await sample_all(sampler)
        await sampler.use(versions[1])
        return base, first, await sample_all(sampler)

    base, first, second = with_sampler(vllm_student, work)
    now = made.logprobs(requests_of(second))
    assert largest_gap(second, now) < TOLERANCE
    assert [one.policy for one in second] == ["student-000002"] * len(PROMPTS)
    assert largest_gap(first, made.logprobs(requests_of(first))) > 0.05
    assert largest_gap(base, made.logprobs(requests_of(base))) > 0.05
    assert len({tuple(one.ids for one in done) for done in (base, first, second)}) == 3


@pytest.fixture
def adapters(vllm_student, tmp_path):
    """`adapters(name, seed)` -> a version with random weights in a folder of its own."""

    def make(name, seed=1):
        path = tmp_path / name
        path.mkdir()
        write_adapter(student(str(vllm_student.model_folder), seed=seed).peft, path, "base")
        return AdapterVersion(name, path)

    return make


async def served(client):
    """The adapters of this test that the server has; those of other tests stay when their sampler is closed."""
    return {card["id"] for card in (await client.get("/v1/models"))["data"] if card["id"].startswith("keep")}


def test_the_old_version_goes_after_its_last_request(vllm_student, adapters):
    one, two, three = (adapters(f"keep-{i}", i) for i in (1, 2, 3))

    async def main():
        async with proxied(vllm_student.socket, Fault(hold=True)) as proxy:
            client = VLLMClient(Endpoint("the student's server", url=proxy.url))
            sampler = VLLMSampler(client, context_window=WINDOW)
            await sampler.use(one)
            slow = asyncio.ensure_future(sampler.sample((6, 7), PARAMS, 1))
            await asyncio.sleep(0.1)
            await sampler.use(two)
            fresh = await sampler.sample((6, 7), PARAMS, 1)
            third = asyncio.ensure_future(sampler.use(three))
            await asyncio.sleep(0.1)
            during, waiting = await served(client), not third.done()
            proxy.release.set()
            finished = await slow
            await third
            last = await sampler.sample((6, 7), PARAMS, 1)
            await asyncio.gather(*sampler._adapters._retiring)
            after = await served(client)
            await client.close()
            return finished, fresh, last, during, waiting, after

    finished, fresh, last, during, waiting, after = asyncio.run(main())
    assert [done.policy for done in (finished, fresh, last)] == ["keep-1", "keep-2", "keep-3"]
    assert during == {"keep-1", "keep-2"}
    assert waiting
    assert after == {"keep-3"}


def test_a_half_written_adapter_is_refused_and_the_old_version_goes_on(vllm_student, adapters):
    good, cut, empty = adapters("good-1"), adapters("cut-1", 2), adapters("empty-1", 3)
    weights = cut.path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-200])
    shutil.rmtree(empty.path)

    async def work(sampler, client):
        await sampler.use(good)
        before = await sample_all(sampler)
        for bad in (cut, empty):
            with pytest.raises(
                RunFailed, match=f"adapter {bad.name} in .*{bad.name} was not loaded"
            ) as caught:
                await sampler.use(bad)
            assert "whole" in caught.value.hint
        return before, await sample_all(sampler)

    before, after = with_sampler(vllm_student, work)
    assert [one.policy for one in after] == ["good-1"] * len(PROMPTS)
    # the same seeds: the same adapter samples the same ids
    assert [one.ids for one in after] == [one.ids for one in before]


def test_a_version_that_the_server_lost_is_loaded_again(vllm_student, adapters):
    version = adapters("lost-1")

    async def work(sampler, client):
        await sampler.use(version)
        before = await sample_all(sampler)
        await client.post(UNLOAD, {"lora_name": "lost-1"}, str)
        return before, await sample_all(sampler)

    before, after = with_sampler(vllm_student, work)
    assert [one.policy for one in after] == ["lost-1"] * len(PROMPTS)
    assert [one.ids for one in after] == [one.ids for one in before]


def test_a_name_left_by_another_run_does_not_hide_the_new_weights(vllm_student, adapters, tmp_path):
    version = adapters("same-1", 4)

    async def work(sampler, client):
        await sampler.use(version)
        old = await sample_all(sampler)
        shutil.rmtree(version.path)
        adapters("same-1", 9)
        other = VLLMSampler(client, context_window=WINDOW)
        await other.use(version)
        done = await sample_all(other)
        await other.close()
        return old, done

    old, done = with_sampler(vllm_student, work)
    assert [one.ids for one in old] != [one.ids for one in done]


def test_a_load_whose_answer_is_lost_is_done_once_more(vllm_student, adapters):
    version = adapters("twice-1")

    async def main():
        async with proxied(vllm_student.socket, Fault(cut=True), path=LOAD) as proxy:
            client = VLLMClient(Endpoint("the student's server", url=proxy.url))
            sampler = VLLMSampler(client, context_window=WINDOW)
            await sampler.use(version)
            done = await sampler.sample((6, 7), PARAMS, 1)
            await client.close()
            return done

    assert asyncio.run(main()).policy == "twice-1"


def test_versions_need_a_folder_and_a_new_name(vllm_student, adapters):
    version = adapters("named-1")

    async def work(sampler, client):
        with pytest.raises(RunFailed, match="has no folder"):
            await sampler.use(AdapterVersion("shared"))
        await sampler.use(version)
        with pytest.raises(RunFailed, match="in use already"):
            await sampler.use(version)

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


ANSWER = {
    "model": "base",
    "usage": {"prompt_tokens": 2},
    "choices": [{"finish_reason": "stop", "token_ids": [8, 3], "logprobs": {"token_logprobs": [-1.0, -2.0]}}],
}
BODY = {"model": "base", "prompt": [6, 7], "max_tokens": 20}


def read(choice=None, **answer):
    whole = {**ANSWER, **answer, "choices": [{**ANSWER["choices"][0], **(choice or {})}]}
    return read_completion(whole, BODY, PARAMS, "base", "the server")


def test_an_answer_is_read():
    assert read() == Completion((8, 3), (-1.0, -2.0), "stop", "base")


@pytest.mark.parametrize(
    ("choice", "answer", "error", "message"),
    [
        ({"finish_reason": "abort"}, {}, TryAgain, "abort"),
        ({"token_ids": [8, 9]}, {}, RunFailed, r"stopped at id \[9\]"),
        ({"token_ids": [8, 9, 3]}, {}, RunFailed, "counts 2 logprobs for the sampled ids, expected 3"),
        ({"token_ids": None}, {}, RunFailed, "no token_ids"),
        ({"logprobs": {"token_logprobs": [-1.0, -9999.0]}}, {}, RunFailed, "1 of 2 logprobs"),
        (
            {"finish_reason": "length", "token_ids": [], "logprobs": {"token_logprobs": []}},
            {},
            RunFailed,
            "0 ids",
        ),
        ({}, {"model": "student-000001"}, RunFailed, "answered for model 'student-000001'"),
        ({}, {"usage": {"prompt_tokens": 3}}, RunFailed, "counts 3 prompt ids, expected 2"),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(choice, answer, error, message):
    with pytest.raises(error, match=message):
        read(choice, **answer)

"""Scoring on real vLLM servers, compared with the local teacher on the same folders."""

import asyncio

import pytest
import torch
from fault_proxy import Fault, proxied
from learner_reference import student
from served_scoring import WINDOW, assert_same, make_requests, with_client

from rnow_core.algo.head import token_logprobs
from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.adapter import write_adapter
from rnow_core.models.causal_lm import load_frozen
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.vllm_completion import PATH
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_probe import generate_and_rescore, probe, require_sampler, require_teacher
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.models.vllm_teacher import TokenGate, VLLMTeacher, given_logprobs, scoring_body
from rnow_core.types import AdapterVersion, SamplingParams, ScoreRequest

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


def score(served, requests, **changes):
    return with_client(
        served.socket, lambda client: VLLMTeacher(client, context_window=WINDOW, **changes).score(requests)
    )


def local(folder, requests):
    device = DeviceThread(1)
    lm = load_frozen(str(folder), device=torch.device("cpu"))
    try:
        return asyncio.run(HFTeacher(lm, device, token_logprobs=token_logprobs).score(requests))
    finally:
        device.close()


@pytest.mark.parametrize("tokens_in_flight", [1 << 16, 130], ids=["all at once", "one by one"])
def test_the_server_scores_as_the_local_teacher_does(vllm_teacher, tokens_in_flight):
    requests = make_requests()
    got = score(vllm_teacher, requests, tokens_in_flight=tokens_in_flight)
    assert_same(got, local(vllm_teacher.model_folder, requests))
    assert got[0] == []


def test_what_was_generated_scores_the_same(vllm_teacher):
    async def work(client):
        facts = await probe(client, str(vllm_teacher.model_folder))
        require_teacher(facts, "teacher")
        with pytest.raises(RunFailed, match="cannot load adapters while it runs"):
            require_sampler(facts, "teacher", adapters=True)
        return await generate_and_rescore(client, facts.model, (6, 7, 8), context_window=WINDOW)

    assert with_client(vllm_teacher.socket, work) < 0.02


def test_a_self_teacher_scores_with_the_base_weights_below_the_adapters(vllm_student, tmp_path):
    """Both of the server's adapter slots are filled and used before the base weights score."""
    requests = make_requests()
    versions = [AdapterVersion(f"self-{seed}", tmp_path / f"self-{seed}") for seed in (1, 2)]
    for seed, version in enumerate(versions):
        version.path.mkdir()
        write_adapter(student(str(vllm_student.model_folder), seed=seed).peft, version.path, "base")

    async def work(client):
        sampler = VLLMSampler(client, context_window=WINDOW)
        for version in versions:
            await sampler.use(version)
            await asyncio.gather(*[sampler.sample((6, 7, 8), SamplingParams(9, ()), key) for key in range(4)])
        teacher = VLLMTeacher(client, context_window=WINDOW, unit="step")
        scored = await teacher.score(requests)
        await sampler.close()
        return scored

    assert_same(with_client(vllm_student.socket, work), local(vllm_student.model_folder, requests))


def test_scores_survive_a_failing_server(vllm_teacher):
    requests = make_requests(4)

    async def main():
        faults = [Fault(status=500)] * 4 + [Fault(cut=True), Fault(drop=True)]
        async with proxied(vllm_teacher.socket, *faults) as proxy:
            client = VLLMClient(Endpoint("teacher", url=proxy.url))
            scored = await VLLMTeacher(client, context_window=WINDOW).score(requests)
            await client.close()
            return scored, proxy.delivered

    scored, delivered = asyncio.run(main())
    assert_same(scored, local(vllm_teacher.model_folder, requests))
    assert delivered == sum(request.start < len(request.ids) for request in requests)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((6, 48), "id 48 is beyond the 48 rows of teacher"),
        ((6,) * 128, "has 128 tokens, .* takes at most 127"),
    ],
    ids=["vocabulary", "length"],
)
def test_what_cannot_be_scored_is_named(vllm_teacher, ids, message):
    with pytest.raises(RnowError, match=message):
        score(vllm_teacher, [ScoreRequest(ids, 1)], vocab_size=48)


def test_the_name_that_the_server_knows_may_come_later(vllm_teacher):
    request = ScoreRequest((6, 7, 8), 1)

    async def work(client):
        teacher = VLLMTeacher(client, context_window=WINDOW, model="org/configured")
        with pytest.raises(RunFailed, match=r"404.*org/configured"):
            await teacher.score([request])
        teacher.ask_for(vllm_teacher.name)
        return await teacher.score([request])

    assert_same(with_client(vllm_teacher.socket, work), local(vllm_teacher.model_folder, [request]))


def test_an_id_beyond_an_unknown_vocabulary_is_the_servers_error(vllm_teacher):
    with pytest.raises(RunFailed, match=r"answered 400.*out of vocabulary"):
        score(vllm_teacher, [ScoreRequest((6, 4800), 1)])


def test_an_entry_of_two_ids_is_read_by_id(vllm_teacher):
    """With prompt_logprobs 1 the server adds the likeliest id, of rank 1, unless it is the given one."""
    request = ScoreRequest(tuple(range(6, 40)), 1)

    async def work(client):
        body = scoring_body("base", request.ids) | {"prompt_logprobs": 1}
        return await client.post(PATH, body, lambda answer: answer["choices"][0]["prompt_logprobs"])

    entries = with_client(vllm_teacher.socket, work)
    assert {len(entry) for entry in entries[1:]} <= {1, 2}
    assert any(len(entry) == 2 for entry in entries[1:])
    assert_same([given_logprobs(entries, request, "teacher")], local(vllm_teacher.model_folder, [request]))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, "NoneType as prompt_logprobs, expected 3 entries"),
        ([None, {"7": {"logprob": -1.0}}], "2 entries"),
        ([{"6": {"logprob": -1.0}}] * 3, "logprob for the first id"),
        (
            [None, {"9": {"logprob": -1.0}}, {"8": {"logprob": -1.0}}],
            "logprob of id 7 at position 1 is missing",
        ),
        ([None, {"7": {"logprob": -1.0}}, {"8": {"logprob": -9999.0}}], "id 8 at position 2 is -9999"),
        (
            [None, {"7": {"logprob": -2.0, "rank": 1}, "9": {"logprob": -1.0}}, {"8": {"logprob": -1.0}}],
            "rank 1",
        ),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error(entries, message):
    with pytest.raises(RunFailed, match=message):
        given_logprobs(entries, ScoreRequest((6, 7, 8), 1), "the server")


def test_the_gate_bounds_tokens_and_lets_a_large_request_go_alone():
    held, most = 0, []

    async def request(gate, tokens):
        nonlocal held
        async with gate.hold(tokens):
            held += tokens
            most.append(held)
            await asyncio.sleep(0)
            held -= tokens

    async def main():
        gate = TokenGate(10)
        await asyncio.gather(*[request(gate, tokens) for tokens in (4, 4, 4, 25, 1, 9, 10, 3)])

    asyncio.run(main())
    assert len(most) == 8
    assert sorted(most)[-2] <= 10
    assert max(most) == 25

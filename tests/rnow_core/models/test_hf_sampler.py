import asyncio
import itertools
import json
import random
import shutil
import threading
from contextlib import contextmanager

import pytest
import torch

from rnow_core.errors import RnowError, RunFailed
from rnow_core.models.causal_lm import load_frozen, load_student
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_sampler import HFSampler
from rnow_core.models.sampling import mix64, sample, signed64, uniforms
from rnow_core.types import AdapterVersion, SamplingParams

CPU = torch.device("cpu")
STOPS = (3, 4, 5, 6)
PARAMS = SamplingParams(max_tokens=20, stop_ids=STOPS)


@pytest.fixture(scope="module")
def device():
    thread = DeviceThread(1)
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def lm(model_folder):
    return load_frozen(model_folder("qwen3"), device=CPU)


def make_prompts(count, seed=0):
    rng = random.Random(seed)
    return [tuple(rng.randrange(97) for _ in range(rng.randint(2, 24))) for _ in range(count)]


def sample_all(sampler, prompts, params=PARAMS, keys=None):
    async def main():
        wanted = zip(prompts, keys or range(len(prompts)), strict=True)
        return await asyncio.gather(*[sampler.sample(ids, params, key) for ids, key in wanted])

    return asyncio.run(main())


@torch.no_grad()
def slow_reference(lm, prompt, params, key):
    """One row at a time, the whole sequence every time, no cache."""
    ids, logprobs = [], []
    mixed = torch.tensor([signed64(mix64(key))])
    while len(ids) < params.max_tokens:
        logits = lm.head.logits(lm.hidden(torch.tensor([[*prompt, *ids]]))[:, -1])
        token, logp = sample(logits, uniforms(mixed, torch.tensor([len(ids)])))
        ids.append(int(token))
        logprobs.append(float(logp))
        if ids[-1] in params.stop_ids:
            break
    return ids, logprobs


@torch.no_grad()
def scored(lm, prompt, completion):
    logits_LV = lm.head.logits(lm.hidden(torch.tensor([[*prompt, *completion.ids]])))[0]
    logp = logits_LV.log_softmax(-1)[len(prompt) - 1 : -1]
    return logp.gather(1, torch.tensor(completion.ids)[:, None]).squeeze(1).tolist()


@contextmanager
def at_decode_step(lm, number, action):
    """Run `action` on the event loop while the device thread stands before decode step `number`."""
    loop, hidden, steps = asyncio.get_running_loop(), lm.hidden, itertools.count(1)
    acted = threading.Event()

    def act():
        action()
        acted.set()

    def gated(ids_BL, *args, **kwargs):
        if ids_BL.shape[1] == 1 and next(steps) == number:
            loop.call_soon_threadsafe(act)
            assert acted.wait(30)
        return hidden(ids_BL, *args, **kwargs)

    lm.hidden = gated
    try:
        yield
    finally:
        del lm.hidden
    assert acted.is_set()


@pytest.mark.parametrize("kind", ["qwen3", "llama", "mistral", "gemma2", "gemma3"])
def test_samples_equal_a_slow_reference_and_mu_a_full_forward(kind, model_folder, device):
    lm = load_frozen(model_folder(kind), device=CPU)
    prompts = make_prompts(9)
    done = sample_all(HFSampler(lm, device, max_slots=5), prompts)
    for key, (prompt, completion) in enumerate(zip(prompts, done, strict=True)):
        ids, logprobs = slow_reference(lm, prompt, PARAMS, key)
        assert list(completion.ids) == ids
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-4)
        assert completion.logprobs == pytest.approx(scored(lm, prompt, completion), abs=1e-4)


def test_a_trained_adapter_is_sampled_and_base_weights_switch_it_off(model_folder, device):
    student = load_student(model_folder("qwen3"), rank=4, alpha=8.0, device=CPU)
    base = load_frozen(model_folder("qwen3"), device=CPU)
    with torch.no_grad():
        for weight in student.trainable_parameters().values():
            weight.add_(0.1)
    prompts = make_prompts(6)
    adapted = sample_all(HFSampler(student, device), prompts)
    plain = sample_all(HFSampler(student, device, base_weights=True), prompts)
    for prompt, completion, unchanged in zip(prompts, adapted, plain, strict=True):
        assert completion.logprobs == pytest.approx(scored(student, prompt, completion), abs=1e-4)
        assert unchanged.logprobs == pytest.approx(scored(base, prompt, unchanged), abs=1e-4)
    assert [c.ids for c in adapted] != [c.ids for c in plain]


def test_training_goes_on_after_sampling(model_folder, device):
    student = load_student(model_folder("qwen3"), rank=4, alpha=8.0, device=CPU)
    sample_all(HFSampler(student, device), make_prompts(3))
    student.hidden(torch.tensor([[5, 6, 7]])).sum().backward()
    assert all(weight.grad is not None for weight in student.trainable_parameters().values())
    assert student.model.get_decoder().config._attn_implementation == "sdpa"


def test_a_group_sampled_together_equals_its_members_sampled_alone(lm, device):
    prompt = make_prompts(1)[0]
    together = sample_all(HFSampler(lm, device), [prompt] * 6)
    for key, completion in enumerate(together):
        (alone,) = sample_all(HFSampler(lm, device), [prompt], keys=[key])
        assert alone.ids == completion.ids
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-5)
    assert len({completion.ids for completion in together}) > 1


def test_two_runs_give_the_same_bytes(lm, device):
    prompts = [prompt for prompt in make_prompts(12) for _ in range(3)]
    first = sample_all(HFSampler(lm, device, max_slots=10), prompts)
    second = sample_all(HFSampler(lm, device, max_slots=10), prompts)
    assert first == second


def test_requests_made_by_tasks_of_one_turn_share_one_prefill(lm, device):
    sampler, prompt = HFSampler(lm, device), make_prompts(1)[0]
    shapes = []
    hidden = lm.hidden

    def spy(ids_BL, *args, **kwargs):
        shapes.append(tuple(ids_BL.shape))
        return hidden(ids_BL, *args, **kwargs)

    async def rollout(key, hops):
        for _ in range(hops):
            await asyncio.sleep(0)
        return await sampler.sample(prompt, SamplingParams(2, ()), key)

    async def main():
        return await asyncio.gather(*[rollout(key, key % 2) for key in range(6)])

    lm.hidden = spy
    try:
        asyncio.run(main())
    finally:
        del lm.hidden
    assert shapes == [(1, len(prompt)), (6, 1)]


def test_stop_reasons(lm, device):
    window = lm.context_window
    long_prompt = [7] * (window - 3)
    stopped = sample_all(HFSampler(lm, device), make_prompts(12))
    assert {"stop", "length"} == {completion.stop_reason for completion in stopped}
    for completion in stopped:
        assert (completion.ids[-1] in STOPS) == (completion.stop_reason == "stop")
        assert not set(completion.ids[:-1]) & set(STOPS)
        assert len(completion.ids) == len(completion.logprobs)
    (full,) = sample_all(HFSampler(lm, device), [long_prompt], SamplingParams(20, ()))
    assert (len(full.ids), full.stop_reason) == (3, "context")
    (exact,) = sample_all(HFSampler(lm, device), [long_prompt], SamplingParams(3, ()))
    assert (len(exact.ids), exact.stop_reason) == (3, "length")


@pytest.mark.parametrize(
    ("prompt", "params", "budget", "told"),
    [
        ([7] * 256, PARAMS, 10_000, "256 tokens, expected at most 255"),
        ([], PARAMS, 10_000, "empty"),
        ([97], PARAMS, 10_000, "97"),
        ([7] * 10, PARAMS, 20, "29 positions"),
        ([7], SamplingParams(20, (), top_p=2.0), 10_000, "top_p"),
    ],
)
def test_impossible_requests_are_refused(lm, device, prompt, params, budget, told):
    sampler = HFSampler(lm, device, kv_budget_tokens=budget)
    with pytest.raises(RnowError, match=told):
        sample_all(sampler, [prompt], params)
    assert sample_all(HFSampler(lm, device), [[7]])[0].ids


def test_the_models_generation_config_has_no_influence(model_folder, device, tmp_path):
    folder = tmp_path / "greedy"
    shutil.copytree(model_folder("qwen3"), folder)
    settings = {"do_sample": True, "top_k": 20, "temperature": 0.1, "max_new_tokens": 2, "eos_token_id": 9}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    opinionated = load_frozen(str(folder), device=CPU)
    assert opinionated.model.generation_config.top_k == 20
    plain = load_frozen(model_folder("qwen3"), device=CPU)
    prompts = make_prompts(8)
    assert sample_all(HFSampler(opinionated, device), prompts) == sample_all(
        HFSampler(plain, device), prompts
    )


def test_parameters_may_differ_between_requests_in_flight(lm, device):
    prompts = make_prompts(4)
    greedy = SamplingParams(8, (), temperature=0.0)
    punished = SamplingParams(8, (), temperature=0.0, repetition_penalty=1e6)

    async def main():
        sampler = HFSampler(lm, device)
        jobs = [
            sampler.sample(p, params, 1)
            for p in prompts
            for params in (SamplingParams(8, ()), greedy, punished)
        ]
        return await asyncio.gather(*jobs)

    done = asyncio.run(main())
    for row, prompt in enumerate(prompts):
        plain, best, unseen = done[3 * row : 3 * row + 3]
        assert list(plain.ids) == slow_reference(lm, prompt, SamplingParams(8, ()), 1)[0]
        for step, token in enumerate(best.ids):
            logits = lm.head.logits(lm.hidden(torch.tensor([[*prompt, *best.ids[:step]]]))[0, -1])
            assert token == int(logits.argmax())
        assert best.logprobs == pytest.approx(scored(lm, prompt, best), abs=1e-4)
        assert len({*unseen.ids}) == 8
        assert not {*unseen.ids} & {*prompt}


def test_a_cancelled_request_leaves_and_the_others_finish(lm, device):
    sampler, prompts, params = HFSampler(lm, device, max_slots=2), make_prompts(5), SamplingParams(30, ())

    async def main():
        tasks = [asyncio.create_task(sampler.sample(ids, params, key)) for key, ids in enumerate(prompts)]

        def cancel():  # one is being decoded, one waits in line
            tasks[0].cancel()
            tasks[3].cancel()

        with at_decode_step(lm, 9, cancel):
            return await asyncio.gather(*tasks, return_exceptions=True)

    done = asyncio.run(main())
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, False, False, True, False]
    for row in (1, 2, 4):
        assert list(done[row].ids) == slow_reference(lm, prompts[row], params, row)[0]


def test_cancelling_everything_leaves_a_sampler_that_works(lm, device):
    sampler = HFSampler(lm, device)

    async def main():
        jobs = [sampler.sample([7, 8], SamplingParams(200, ()), key) for key in range(3)]
        everything = asyncio.gather(*jobs, return_exceptions=True)
        with at_decode_step(lm, 5, everything.cancel), pytest.raises(asyncio.CancelledError):
            await everything
        return await asyncio.wait_for(sampler.sample([7, 8], PARAMS, 5), 30)

    assert asyncio.run(main()) == sample_all(HFSampler(lm, device), [[7, 8]], keys=[5])[0]


def test_a_request_that_arrives_later_joins_between_tokens(lm, device):
    sampler, prompts = HFSampler(lm, device), make_prompts(2)

    async def main():
        later = []

        def arrive():
            later.append(asyncio.create_task(sampler.sample(prompts[1], SamplingParams(3, ()), 1)))
            later[0].add_done_callback(lambda _: order.append("later"))

        order = []
        with at_decode_step(lm, 5, arrive):
            first = await sampler.sample(prompts[0], SamplingParams(200, ()), 0)
            order.append("first")
        return order, first, await later[0]

    order, *done = asyncio.run(main())
    assert order == ["later", "first"]
    for prompt, completion in zip(prompts, done, strict=True):
        assert completion.logprobs == pytest.approx(scored(lm, prompt, completion), abs=1e-4)


def test_an_error_in_the_loop_reaches_every_waiter_and_the_sampler_recovers(lm, device):
    sampler, hidden = HFSampler(lm, device, max_slots=2), lm.hidden

    def broken(ids_BL, *args, **kwargs):
        if ids_BL.shape[1] == 1:
            raise RuntimeError("the device fell over")
        return hidden(ids_BL, *args, **kwargs)

    async def main():
        jobs = [sampler.sample(ids, PARAMS, 0) for ids in make_prompts(5)]
        return await asyncio.wait_for(asyncio.gather(*jobs, return_exceptions=True), 30)

    lm.hidden = broken
    try:
        failed = asyncio.run(main())
    finally:
        del lm.hidden
    assert [str(error) for error in failed] == ["the device fell over"] * 5
    assert sample_all(sampler, make_prompts(5)) == sample_all(
        HFSampler(lm, device, max_slots=2), make_prompts(5)
    )


def test_weights_that_are_not_finite_are_an_error_not_a_reply(model_folder, device):
    broken = load_frozen(model_folder("qwen3", seed=3), device=CPU)
    with torch.no_grad():
        broken.model.get_decoder().norm.weight.fill_(torch.nan)
    with pytest.raises(RunFailed, match="not a finite number"):
        sample_all(HFSampler(broken, device), make_prompts(3))


def test_use_waits_for_what_is_in_flight_and_renames_the_policy(lm, device):
    async def main():
        sampler = HFSampler(lm, device, version="student-000000")
        jobs = [asyncio.create_task(sampler.sample([7], PARAMS, key)) for key in range(3)]
        await asyncio.sleep(0)
        await sampler.use(AdapterVersion("student-000001"))
        assert all(job.done() for job in jobs)
        later = await sampler.sample([7], PARAMS, 0)
        await sampler.close()
        with pytest.raises(RnowError, match="closed"):
            await sampler.sample([7], PARAMS, 0)
        return [job.result().policy for job in jobs], later.policy

    assert asyncio.run(main()) == (["student-000000"] * 3, "student-000001")


def test_close_cancels_what_is_in_flight(lm, device):
    async def main():
        sampler, closed = HFSampler(lm, device), []
        job = asyncio.create_task(sampler.sample([7], SamplingParams(200, ()), 0))
        with at_decode_step(lm, 5, lambda: closed.append(asyncio.create_task(sampler.close()))):
            await asyncio.wait([job], timeout=30)
            await asyncio.wait_for(closed[0], 30)
        return job.cancelled()

    assert asyncio.run(main())

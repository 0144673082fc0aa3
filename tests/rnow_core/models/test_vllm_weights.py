"""Whole models on a real vLLM server of this file's own: loaded over one another, lost and loaded again."""

import asyncio
import json
import os
import shutil
import signal

import pytest
import torch
from fault_proxy import Fault, proxied
from learner_reference import make_batch, student
from safetensors.torch import load_file, save_file
from served_sampling import (
    PARAMS,
    PROMPTS,
    TOLERANCE,
    WINDOW,
    largest_gap,
    requests_of,
    sample_all,
)
from tiny import make_model
from vllm_fixtures import quiet, tiny_spec

from rnow_core.algo.head import token_logprobs
from rnow_core.errors import RunFailed
from rnow_core.models.causal_lm import load_frozen
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_teacher import HFTeacher
from rnow_core.models.published import TIED_HEAD, WEIGHTS
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_probe import probe, require_sampler
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.models.vllm_server import ManagedServer
from rnow_core.models.vllm_weights import RPC, ServedWeights
from rnow_core.types import AdapterVersion

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]
APART = 0.05


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server without adapters, prefix cache on; its weights change from test to test."""
    root = tmp_path_factory.mktemp("weights")
    model = make_model(root / "base", seed=1, layers=2)
    made = ManagedServer(tiny_spec("student", model, root, enable_lora=False))
    try:
        asyncio.run(made.start(quiet))
        yield made
    finally:
        asyncio.run(made.stop())


@pytest.fixture
def version(tmp_path):
    """`version(name, seed)` -> a whole model with random weights in a folder of its own."""

    def make(name, seed):
        return AdapterVersion(name, make_model(tmp_path / name, seed=seed, layers=2))

    return make


@pytest.fixture(scope="module")
def reference():
    """transformers: (version, its completions) -> the largest gap between the logprobs."""
    device = DeviceThread(1)

    def gap(version, done):
        lm = load_frozen(str(version.path), device=torch.device("cpu"))
        requests = requests_of(done, PROMPTS[: len(done)])
        return largest_gap(
            done, asyncio.run(HFTeacher(lm, device, token_logprobs=token_logprobs).score(requests))
        )

    yield gap
    device.close()


def sampler_of(client):
    return VLLMSampler(
        client,
        context_window=WINDOW,
        vocab_size=48,
        versions=ServedWeights(client, "base", packed_head=True),
    )


def run(server, work, **changes):
    """`work(sampler, client)` in a loop of its own."""

    async def main():
        client = VLLMClient(Endpoint("the student's server", socket=server.socket), **changes)
        try:
            return await work(sampler_of(client), client)
        finally:
            await client.close()

    return asyncio.run(main())


def test_a_trained_step_is_what_the_next_rollout_samples_from(server, learner, tmp_path):
    """The prompts are the same and the prefix cache is on: stale keys or a stale tied head would show."""
    made = learner(student(server.spec.model, rank=0), learning_rate=0.02)
    batch = make_batch(vocab=48)
    versions = []
    for step in (1, 2):
        made.update(batch, step)
        versions.append(made.publish(tmp_path))

    async def work(sampler, client):
        require_sampler(await probe(client, "base"), "the server", adapters=False, weights=True)
        base = await sample_all(sampler)
        await sampler.use(versions[0])
        first = await sample_all(sampler)
        await sampler.use(versions[1])
        return base, first, await sample_all(sampler)

    base, first, second = run(server, work)
    assert largest_gap(second, made.logprobs(requests_of(second))) < TOLERANCE
    assert largest_gap(first, made.logprobs(requests_of(first))) > APART
    assert largest_gap(base, made.logprobs(requests_of(base))) > APART
    assert [{one.policy for one in done} for done in (base, first, second)] == [
        {"base"},
        {"student-000001"},
        {"student-000002"},
    ]


def test_weights_change_after_the_last_request_and_new_ones_wait(server, version, reference):
    one, two = version("flight-1", 3), version("flight-2", 4)

    async def main():
        async with proxied(server.socket, Fault(), Fault(hold=True)) as proxy:
            client = VLLMClient(Endpoint("the student's server", url=proxy.url))
            sampler = sampler_of(client)
            await sampler.use(one)
            await sampler.sample(PROMPTS[0], PARAMS, 0)
            slow = asyncio.ensure_future(sampler.sample(PROMPTS[0], PARAMS, 1))
            while proxy.requests["/v1/completions"] < 2:
                await asyncio.sleep(0.01)
            switch = asyncio.ensure_future(sampler.use(two))
            await asyncio.sleep(0.1)
            fresh = asyncio.ensure_future(sampler.sample(PROMPTS[0], PARAMS, 1))
            await asyncio.sleep(0.3)
            held = (proxy.requests[RPC], proxy.requests["/v1/completions"], switch.done())
            proxy.release.set()
            done = await asyncio.gather(slow, fresh)
            await switch
            await client.close()
            return done, held

    (slow, fresh), held = asyncio.run(main())
    assert held == (1, 2, False)
    assert (slow.policy, fresh.policy) == ("flight-1", "flight-2")
    assert reference(one, [slow]) < TOLERANCE
    assert reference(two, [fresh]) < TOLERANCE


def test_a_restarted_server_gets_the_version_again_before_an_answer_counts(server, version, reference):
    wanted, starts = version("again-1", 5), server.starts

    async def work(sampler, client):
        await sampler.use(wanted)
        before = await sample_all(sampler)
        os.killpg(server.pid, signal.SIGKILL)
        return before, await sample_all(sampler)

    before, after = run(server, work, on_down=server.ensure)
    assert server.starts == starts + 1
    assert reference(wanted, after) < TOLERANCE
    assert {one.policy for one in after} == {"again-1"}
    assert [one.ids for one in after] == [one.ids for one in before]


def test_weights_that_another_run_loaded_are_never_taken_for_ones_own(server, version, reference):
    mine, other = version("mine-1", 6), version("other-1", 7)

    async def work(sampler, client):
        await sampler.use(mine)
        await sampler_of(client).use(other)
        return await sample_all(sampler)

    assert reference(mine, run(server, work)) < TOLERANCE


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-200])


def forget(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["model.norm.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def widen(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))


def test_a_folder_that_is_not_whole_is_refused_and_the_old_version_goes_on(server, version):
    good = version("good-1", 8)

    async def work(sampler, client):
        await sampler.use(good)
        before = await sample_all(sampler)
        for number, damage in enumerate((cut, forget, widen, shutil.rmtree)):
            bad = version(f"bad-{number}", 9)
            damage(bad.path)
            with pytest.raises(RunFailed, match=f"{bad.path} is not a whole model: .*") as caught:
                await sampler.use(bad)
            assert "--resume" in caught.value.hint
        return before, await sample_all(sampler)

    before, after = run(server, work)
    assert {one.policy for one in after} == {"good-1"}
    assert [one.ids for one in after] == [one.ids for one in before]


def test_after_a_reload_that_failed_nothing_is_sampled(server, version):
    bad = version("fails-1", 10)

    async def main():
        async with proxied(server.socket, Fault(status=500), path=RPC) as proxy:
            client = VLLMClient(Endpoint("the student's server", url=proxy.url))
            sampler = sampler_of(client)
            with pytest.raises(RunFailed, match=r"fails-1 in .* no longer whole.*out of order") as caught:
                await sampler.use(bad)
            assert "restart the server" in caught.value.hint
            with pytest.raises(RunFailed, match="no longer whole"):
                await sampler.sample(PROMPTS[0], PARAMS, 0)
            await client.close()
            return proxy.requests["/v1/completions"]

    assert asyncio.run(main()) == 0


def test_versions_need_a_folder_and_a_new_name(server, version):
    named = version("named-1", 11)

    async def work(sampler, client):
        with pytest.raises(RunFailed, match="has no folder"):
            await sampler.use(AdapterVersion("shared"))
        await sampler.use(named)
        with pytest.raises(RunFailed, match="in use already"):
            await sampler.use(named)

    run(server, work)
    assert (named.path / TIED_HEAD).is_file()

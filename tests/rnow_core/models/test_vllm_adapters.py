"""Adapter versions on a real vLLM server: loaded, used, retired, lost and loaded again."""

import asyncio
import json
import shutil

import pytest
from fault_proxy import Fault, proxied
from learner_reference import make_batch, student
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

from rnow_core.errors import RunFailed
from rnow_core.models.adapter import write_adapter
from rnow_core.models.vllm_adapters import LOAD, UNLOAD
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.types import AdapterVersion

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


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
    """The versions that the server has; what it calls them ends with a part that is the run's own."""
    cards = (await client.get("/v1/models"))["data"]
    return {card["id"].rsplit("-", 1)[0] for card in cards if card["id"].startswith("keep")}


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
            await asyncio.gather(*sampler._versions._retiring)
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
        await client.post(UNLOAD, {"lora_name": sampler._versions.current.model}, str)
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


def test_the_servers_flag_names_the_layers_of_the_adapter(vllm_student, adapters):
    config = json.loads((adapters("layers-1").path / "adapter_config.json").read_text())
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == set(
        vllm_student.server.spec.lora_modules
    )

"""Sleep and wake of a server: on the CPU that it obeys and answers the same afterwards, on a GPU what it frees."""

import asyncio

import pytest
import torch
import transformers
from served_sampling import PROMPTS, sample_all, with_sampler
from tiny import make_tokenizer
from vllm_fixtures import quiet, tiny_spec

from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.models.vllm_server import ManagedServer
from rnow_core.models.vllm_sleep import Sleeper
from rnow_core.types import SamplingParams

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]
GIB = 2**30


def test_a_server_sleeps_wakes_and_answers_as_before(vllm_student):
    async def work(sampler, client):
        sleeper = Sleeper(client)
        before = await sample_all(sampler)
        await sleeper.wake()  # awake already: nothing happens
        states = []
        for act in (sleeper.sleep, sleeper.sleep, sleeper.wake):
            await act()
            states.append(await sleeper.asleep())
        return before, states, await sample_all(sampler)

    before, states, after = with_sampler(vllm_student, work)
    assert states == [True, True, False]
    assert [one.ids for one in after] == [one.ids for one in before]
    assert len(after) == len(PROMPTS)


@pytest.mark.gpu
def test_on_a_gpu_sleep_gives_its_memory_back(tmp_path):
    """Weights of about a gigabyte and a cache of several: asleep, the server keeps its context and little else."""
    vocab = make_tokenizer(tmp_path / "model")
    config = transformers.Qwen3Config(
        vocab_size=vocab,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    spec = tiny_spec(
        "teacher",
        tmp_path / "model",
        tmp_path,
        on_gpu=True,
        sleep_mode=True,
        dtype="bfloat16",
        max_model_len=4096,
        max_logprobs=20,
        gpu_memory_utilization=0.2,
    )
    params = SamplingParams(max_tokens=16, stop_ids=())

    def free() -> int:
        return int(torch.cuda.mem_get_info()[0])

    async def main() -> tuple[int, int, int, bool]:
        server = ManagedServer(spec)
        try:
            await server.start(quiet)
            client = VLLMClient(Endpoint("the teacher's server", socket=server.socket))
            sampler, sleeper = VLLMSampler(client, context_window=4096), Sleeper(client)
            first = await sampler.sample((6, 7, 8), params, 1)
            awake = free()
            await sleeper.sleep()
            asleep = free()
            await sleeper.wake()
            again = await sampler.sample((6, 7, 8), params, 1)
            await client.close()
            return awake, asleep, free(), first.ids == again.ids
        finally:
            await server.stop()

    awake, asleep, back, same = asyncio.run(main())
    assert asleep - awake > weights + GIB
    assert abs(back - awake) < GIB
    assert same

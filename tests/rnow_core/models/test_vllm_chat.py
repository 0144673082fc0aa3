"""A vLLM server as the teacher of `rnow generate`: over its chat route, and through the sampler of a local model."""

import asyncio

import pytest
from fault_proxy import proxied

from rnow_core.data.renderer import Renderer
from rnow_core.models.chat_http import ChatClient, ChatRequest, NotAccepted, NotThisOne
from rnow_core.models.vllm_http import Endpoint, VLLMClient
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.rollout.sampled_teacher import SampledTeacher

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]

QUESTION = [{"role": "user", "content": "1+1=?"}]
LONG = [{"role": "user", "content": "1" * 500}]
WINDOW = 128


def over_http(served, *asked):
    """What the chat route answers, or the error, of each (request, messages)."""

    async def main():
        async with proxied(served.socket) as proxy:
            client = ChatClient(proxy.url, None)
            try:
                return [await _outcome(client, *one) for one in asked]
            finally:
                await client.close()

    return asyncio.run(main())


def over_sampler(served, *asked):
    async def main():
        client = VLLMClient(Endpoint("the teacher's server", socket=served.socket))
        sampler = VLLMSampler(client, context_window=WINDOW, base=served.name)
        teacher = SampledTeacher(Renderer.load(served.model_folder), sampler, WINDOW, None)
        try:
            return [await _outcome(teacher, *one) for one in asked]
        finally:
            await teacher.close()
            await client.close()

    return asyncio.run(main())


async def _outcome(teacher, request, messages):
    try:
        return await teacher.ask(request, messages, [], 1)
    except (NotThisOne, NotAccepted) as error:
        return error


def test_the_chat_route_and_the_sampler_say_the_same_and_refuse_the_same(vllm_teacher):
    greedy = ChatRequest(vllm_teacher.name, 12, 0.0)
    unknown = ChatRequest("another/model", 12, 0.0)
    told, long, wrong = over_http(vllm_teacher, (greedy, QUESTION), (greedy, LONG), (unknown, QUESTION))
    same, too_long = over_sampler(vllm_teacher, (greedy, QUESTION), (greedy, LONG))
    assert (told.finish, told.tokens_in, told.tokens_out) == (same.finish, same.tokens_in, same.tokens_out)
    assert told.message["content"] == same.message["content"]
    assert told.tokens_out > 0
    assert (long.reason, too_long.reason) == ("too-long", "too-long")
    assert isinstance(wrong, NotAccepted)
    assert "--model" in wrong.hint

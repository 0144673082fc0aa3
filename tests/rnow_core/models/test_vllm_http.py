"""The client against real servers and a proxy that fails in front of them."""

import asyncio
import time

import pytest
from fault_proxy import Fault, proxied

from rnow_core.errors import EnvironmentMissing, RunFailed
from rnow_core.models.vllm_http import Endpoint, Patience, ServerError, TryAgain, VLLMClient
from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.types import SamplingParams

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]
PARAMS = SamplingParams(max_tokens=6, stop_ids=(2,))


def client_of(proxy, **changes):
    return VLLMClient(Endpoint("the student's server", url=proxy.url), **changes)


async def sample_group(client, count=8):
    sampler = VLLMSampler(client, context_window=128)
    return await asyncio.gather(*[sampler.sample((5, 6, 7, 8 + i), PARAMS, i) for i in range(count)])


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(status=500)] * 5,
        [Fault(status=503), Fault(status=502), Fault(status=429, headers="retry-after: 0\r\n")],
        [Fault(drop=True)] * 4,
        [Fault(cut=True)] * 4,
        [Fault(wait=0.3), Fault(cut=True), Fault(status=500), Fault(drop=True)],
    ],
    ids=["500", "overload", "dropped", "cut", "mixed"],
)
def test_a_group_survives_faults_with_nothing_lost_or_doubled(vllm_student, faults):
    async def main():
        async with proxied(vllm_student.socket, *faults) as proxy:
            client = client_of(proxy)
            done = await sample_group(client)
            await client.close()
            return proxy, done

    proxy, done = asyncio.run(main())
    assert len(done) == proxy.delivered == 8
    failed = sum(fault.cut or fault.drop or fault.status is not None for fault in faults)
    assert proxy.requests["/v1/completions"] == 8 + failed
    assert all(1 <= len(completion.ids) <= 6 for completion in done)


def test_retry_after_is_waited_for(vllm_student):
    async def main():
        fault = Fault(status=429, headers="retry-after: 0.7\r\n")
        async with proxied(vllm_student.socket, fault) as proxy:
            client = client_of(proxy)
            start = time.monotonic()
            await sample_group(client, 1)
            await client.close()
            return time.monotonic() - start

    assert asyncio.run(main()) >= 0.7


def test_a_refused_request_is_not_sent_again_and_says_why(vllm_student):
    async def main():
        async with proxied(vllm_student.socket) as proxy:
            client = client_of(proxy)
            with pytest.raises(ServerError) as caught:
                await client.post("/v1/completions", {"model": "nobody", "prompt": [1], "max_tokens": 1}, str)
            await client.close()
            return proxy, caught.value

    proxy, error = asyncio.run(main())
    assert proxy.requests["/v1/completions"] == 1
    assert error.status == 404
    assert isinstance(error, RunFailed)
    for part in ("the student's server", proxy.url, "POST /v1/completions", "404", "`nobody` does not exist"):
        assert part in error.message


def test_patience_ends_with_the_last_cause(vllm_student):
    async def main():
        async with proxied(vllm_student.socket, *[Fault(status=500)] * 500) as proxy:
            client = client_of(proxy, patience_s=0.8)
            with pytest.raises(ServerError, match="answered 500: out of order") as caught:
                await sample_group(client, 1)
            await client.close()
            return proxy, caught.value

    proxy, error = asyncio.run(main())
    assert proxy.requests["/v1/completions"] >= 2
    assert "resume" in error.hint


def test_a_server_that_does_not_answer_is_named(vllm_student):
    async def main():
        async with proxied(vllm_student.socket, *[Fault(wait=30.0)] * 9) as proxy:
            client = client_of(proxy, timeout_s=0.2, patience_s=0.5)
            with pytest.raises(ServerError, match=r"no answer within 0\.2 s"):
                await sample_group(client, 1)
            await client.close()

    asyncio.run(main())


def test_concurrency_is_bounded(vllm_student):
    async def main():
        async with proxied(vllm_student.socket) as proxy:
            client = client_of(proxy, max_in_flight=3)
            await sample_group(client, 12)
            await client.close()
            return proxy

    assert asyncio.run(main()).most_at_once == 3


def test_a_lost_server_is_restarted_once_for_all_requests(vllm_student):
    calls = []

    async def main():
        async with proxied(vllm_student.socket) as proxy:
            await proxy.shut()

            async def on_down():
                calls.append(None)
                await asyncio.sleep(0.5)  # longer than the requests' patience: a restart does not use it up
                await proxy.open()
                return True

            client = client_of(proxy, on_down=on_down, patience_s=0.4)
            done = await sample_group(client)
            await client.close()
            return done

    assert len(asyncio.run(main())) == 8
    assert len(calls) == 1


def test_a_restart_that_fails_stops_the_run_with_its_own_cause(vllm_student):
    async def on_down():
        raise RunFailed("the server died three times", "see its log")

    async def main():
        async with proxied(vllm_student.socket) as proxy:
            await proxy.shut()
            client = client_of(proxy, on_down=on_down)
            with pytest.raises(RunFailed, match="died three times"):
                await sample_group(client, 2)
            await client.close()

    asyncio.run(main())


def test_the_api_key_comes_from_the_environment_by_name(monkeypatch):
    endpoint = Endpoint("teacher", url="http://host:1/v1/", api_key_env="TEACHER_KEY")
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(EnvironmentMissing, match="TEACHER_KEY"):
        VLLMClient(endpoint)
    monkeypatch.setenv("TEACHER_KEY", "s3cret")
    assert endpoint.headers() == {"Authorization": "Bearer s3cret"}
    assert endpoint.base_url == "http://host:1"
    assert "s3cret" not in str(endpoint)


def test_patience_knows_what_to_try_again():
    patience = Patience(10.0)
    assert patience(ValueError("a bug")) is False
    assert patience(TryAgain("500")) is True
    assert 3.0 < patience(TryAgain("429", 429, 3.0)) < 4.0
    assert patience(TryAgain("429", 429, 11.0)) is False

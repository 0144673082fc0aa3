"""What each answer of a chat server is taken for."""

import asyncio
import time

import pytest
from teacher_server import Fault, teacher

from rnow_core.errors import EnvironmentMissing
from rnow_core.models.chat_http import Broke, ChatClient, ChatRequest, NotAccepted, NotThisOne, SlowDown
from rnow_core.models.vllm_http import TryAgain

REQUEST = ChatRequest("a/model", 16, 0.7)
ASK = [{"role": "user", "content": "hello"}]


def ask(url, timeout_s=5.0):
    async def main():
        client = ChatClient(url, None, timeout_s=timeout_s)
        try:
            return await client.ask(REQUEST, ASK, [])
        finally:
            await client.close()

    return asyncio.run(main())


def refused(fault, timeout_s=5.0):
    with teacher(lambda *_: fault) as server:
        with pytest.raises((TryAgain, Broke, NotAccepted, NotThisOne)) as caught:
            ask(server.url, timeout_s)
        assert sum(server.asked.values()) == 1
        return caught.value


def test_an_answer_with_its_tokens_cost_and_provider():
    with teacher() as server:
        answer = ask(server.url + "/")
    assert answer.message["content"] == "answer to hello"
    assert (answer.finish, answer.tokens_in, answer.tokens_out, answer.cost) == ("stop", 10, 5, 0.001)
    assert answer.provider == "Stand-in"
    assert server.bodies[0] == {"model": "a/model", "messages": ASK, "max_tokens": 16, "temperature": 0.7}


def error(code, message="no"):
    return {"error": {"code": code, "message": message}}


IMPORTED = time.time()
"""Cases are made when the file is imported, which may be many minutes before they run."""


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(status=429), SlowDown),
        (Fault(body=error(429)), SlowDown),
        (Fault(status=429, body=error("insufficient_quota", "You exceeded your current quota")), Broke),
        (Fault(status=402), Broke),
        (Fault(body=error(402)), Broke),
        (Fault(status=403, body=error(403, "Key limit exceeded (total limit)")), Broke),
        (Fault(status=401), NotAccepted),
        (Fault(status=403), NotAccepted),
        (Fault(status=404), NotAccepted),
        (Fault(status=400), NotAccepted),
        (Fault(body=error(400)), NotAccepted),
        (Fault(status=400, body=error(400, "maximum context length is 8192 tokens")), NotThisOne),
        (Fault(status=403, body=error(403, "Your input was flagged")), NotThisOne),
        (Fault(status=500), TryAgain),
        (Fault(status=529), TryAgain),
        (Fault(status=408), TryAgain),
        (Fault(body=error("server_error")), TryAgain),
        (Fault(body={"error": "overloaded"}), TryAgain),
        (Fault(body={"choices": []}), TryAgain),
        (Fault(body={"choices": [{"message": None}]}), TryAgain),
        (Fault(body={"choices": [{"error": {"code": 502}, "message": {"content": ""}}]}), TryAgain),
        (Fault(finish="error"), TryAgain),
        (Fault(cut=True), TryAgain),
        (Fault(reset=True), TryAgain),
    ],
)
def test_a_failure_says_what_to_do_about_it(fault, kind):
    assert type(refused(fault)) is kind


def test_a_body_that_takes_too_long_is_given_up():
    assert "0.2 s" in str(refused(Fault(delay=1.0), timeout_s=0.2))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int((IMPORTED + 86400) * 1000))}, 86400),
        (
            {
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-reset-requests": "1h",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m30s",
            },
            90,
        ),
        ({}, None),
    ],
)
def test_how_long_a_429_asks_to_wait(headers, seconds):
    error = refused(Fault(status=429, headers=headers))
    assert error.retry_after == (
        None if seconds is None else pytest.approx(seconds, abs=20 if seconds < 1000 else 3600)
    )


def test_a_missing_key_and_a_wrong_address(monkeypatch):
    monkeypatch.delenv("RNOW_NO_KEY", raising=False)
    with pytest.raises(EnvironmentMissing, match="RNOW_NO_KEY"):
        ChatClient("http://127.0.0.1:1/v1", "RNOW_NO_KEY")
    with pytest.raises(NotAccepted, match="protocol"):
        ask("localhost:8000/v1")
    with pytest.raises(TryAgain, match="connection failed"):
        ask("http://127.0.0.1:1/v1")


def test_text_that_cannot_be_saved_is_made_savable():
    with teacher(reply=lambda *_: {"role": "assistant", "content": "half \ud83d"}) as server:
        assert ask(server.url).message["content"] == "half ?"

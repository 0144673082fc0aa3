"""One OpenAI-compatible chat endpoint: a request is one attempt, and its failure says what to do about it.

SlowDown     429: ask again later, and less often
TryAgain     5xx, time-out, lost connection, broken JSON, no choices, an error inside a 200
Broke        402, or a key at its limit: nothing more can be bought
NotAccepted  400, 401, 403, 404: the next request would be refused too
NotThisOne   this conversation is too long for the teacher, or its filter refused it
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import httpx2

from rnow_core.errors import EnvironmentMissing
from rnow_core.models.vllm_http import RETRIED, Endpoint, ServerError, TryAgain, asked_wait, said_by
from rnow_core.types import Message

OPENROUTER = "https://openrouter.ai/api/v1"
_KEY_LIMIT = re.compile(r"key.{0,20}limit|credit|quota|billing|insufficient", re.IGNORECASE)
_TOO_LONG = re.compile(r"context.{0,12}(length|window|limit)|too long|too many.{0,12}tokens", re.IGNORECASE)
_FILTERED = re.compile(r"moderat|flagged|content.?(filter|policy|management)", re.IGNORECASE)
_SPAN = re.compile(r"([\d.]+)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class SlowDown(TryAgain):
    """The server asks for fewer requests; `retry_after` in seconds where it says so."""


class Broke(ServerError):
    """The account or the key has no money left."""


class NotAccepted(ServerError):
    """The server refuses what rnow sends."""


class NotThisOne(Exception):
    """The server refuses this conversation, not the next. `reason`: `too-long` or `refused`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What every request of a run has in common. `temperature` is sent as it is; `provider` pins OpenRouter's."""

    model: str
    max_tokens: int
    temperature: float
    provider: str | None = None

    def body(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The JSON of one request."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        if tools:
            body["tools"] = list(tools)
        if self.provider:
            names = [name.strip() for name in self.provider.split(",")]
            body["provider"] = {"order": names, "allow_fallbacks": False, "require_parameters": True}
        return body


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One reply. `cost` in US dollars and `provider` are None where the server does not say them."""

    message: Message
    finish: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    provider: str | None = None


class ChatClient:
    """Requests to one endpoint; every call of `ask` is exactly one HTTP request.

    timeout_s: a whole answer, to its last byte, within so many seconds.
    """

    def __init__(self, url: str, key_env: str | None, *, timeout_s: float = 300.0) -> None:
        self.endpoint = Endpoint("the teacher's server", url=url, api_key_env=key_env)
        self._path = f"{url.rstrip('/')}/chat/completions"
        self._timeout_s = timeout_s
        self._openrouter = "openrouter.ai" in url
        self._http = httpx2.AsyncClient(
            headers=self._key(),
            timeout=httpx2.Timeout(timeout_s, connect=min(10.0, timeout_s), pool=None),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=5.0),
        )

    async def start(self, progress: Callable[[float, str], None]) -> None:
        """Nothing to start: the server is somebody else's."""

    async def ask(
        self,
        request: ChatRequest,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        key: int = 0,
    ) -> ChatAnswer:
        """One request, one answer; `key` is not sent, since not all servers take a seed.

        Raises TryAgain, SlowDown, Broke, NotAccepted, NotThisOne.
        """
        body = request.body(messages, tools)
        if self._openrouter:
            body["usage"] = {"include": True}
        try:
            # a body that drips would keep every shorter time-out waiting
            async with asyncio.timeout(self._timeout_s):
                response = await self._http.post(self._path, json=body)
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise TryAgain(f"{self.endpoint}: no complete answer within {self._timeout_s:g} s") from error
        except httpx2.InvalidURL as error:
            raise NotAccepted(f"{self.endpoint}: {error}", "correct --base-url") from error
        except httpx2.UnsupportedProtocol as error:
            raise NotAccepted(f"{self.endpoint}: {error}", "--base-url https://HOST/v1") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            said = f"{self.endpoint}: the connection failed: {error or type(error).__name__}"
            raise TryAgain(said) from error
        if response.status_code != 200:
            self._refuse(response.status_code, said_by(response), _wait(response.headers))
        return self._read(response)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def _key(self) -> dict[str, str]:
        try:
            return self.endpoint.headers()
        except EnvironmentMissing:
            name = self.endpoint.api_key_env
            raise EnvironmentMissing(
                f"{self.endpoint} needs an API key, and the environment variable {name} is not set",
                f"write the line {name}=YOUR_KEY into .env, or export it; --key-env NAME reads another variable, and "
                "--key-env none asks without a key",
            ) from None

    def _read(self, response: httpx2.Response) -> ChatAnswer:
        try:
            answer = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            raise TryAgain(f"the answer is not JSON: {error}", 200) from error
        if b"\\u" in response.content:
            # half of a surrogate pair has no UTF-8 form, so it could not be saved
            answer = json.loads(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))
        if not isinstance(answer, dict):
            raise TryAgain(f"the answer is no JSON object: {str(answer)[:100]}", 200)
        choices = answer.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        problem = answer.get("error") or (choice.get("error") if isinstance(choice, dict) else None)
        if problem:
            self._refuse_inside(problem, response)
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise TryAgain("the answer has no choices", 200)
        if choice.get("finish_reason") in ("error", "abort"):
            raise TryAgain(f"the answer ends with finish_reason {choice['finish_reason']}", 200)
        return _answer(answer, choice)

    def _refuse_inside(self, problem: Any, response: httpx2.Response) -> NoReturn:
        """An error that came with status 200: its code counts where it is one."""
        known = problem if isinstance(problem, dict) else {"message": str(problem)}
        message = " ".join(str(known.get("message") or known).split())[:600]
        code = known.get("code")
        status = int(str(code)) if str(code).isdecimal() else 500
        self._refuse(status, message, _wait(response.headers))

    def _refuse(self, status: int, message: str, wait: float | None) -> NoReturn:
        place = f"{self.endpoint} answered {status}: {message}"
        if status == 402 or (status in (403, 429) and _is_broke(status, message)):
            hint = (
                "add credit or raise the key's limit, then give the same command again: it goes on from here"
            )
            raise Broke(place, hint, status)
        if status == 429:
            raise SlowDown(message, status, wait)
        if status in RETRIED or status >= 500 or status == 409:
            raise TryAgain(f"{status}: {message}", status, wait if status == 503 else None)
        if status in (400, 413, 422) and _TOO_LONG.search(message):
            raise NotThisOne("too-long", message)
        if status in (400, 403) and _FILTERED.search(message):
            raise NotThisOne("refused", message)
        raise NotAccepted(place, self._hint(status), status)

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            return f"check the API key in {self.endpoint.api_key_env or '--key-env: none is configured'}"
        if status == 404:
            return "check --model and --base-url (it ends before /chat/completions)"
        return "the server does not accept the request: check --model, --max-tokens, --provider and the tools"


def _answer(answer: Mapping[str, Any], choice: Mapping[str, Any]) -> ChatAnswer:
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    cost, provider = usage.get("cost"), answer.get("provider")
    return ChatAnswer(
        message=choice["message"],
        finish=str(choice.get("finish_reason") or "stop"),
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        cost=float(cost) if isinstance(cost, int | float) else None,
        provider=provider if isinstance(provider, str) else None,
    )


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _is_broke(status: int, message: str) -> bool:
    """A 429 of OpenAI's that no waiting helps names the quota; OpenRouter's key limit comes as 403."""
    return bool(_KEY_LIMIT.search(message)) and (status == 403 or "quota" in message.lower())


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait: Retry-After, or the time until its limit is reset."""
    if (milliseconds := headers.get("retry-after-ms", "")).replace(".", "", 1).isdecimal():
        return float(milliseconds) / 1000
    if (wait := asked_wait(headers)) is not None:
        return wait
    remaining = {name: headers.get(f"x-ratelimit-remaining{name}") for name in ("", "-requests", "-tokens")}
    spent = [name for name, left in remaining.items() if left is not None and left.strip() == "0"]
    waits = [_until(headers.get(f"x-ratelimit-reset{name}", "")) for name in spent]
    return max((wait for wait in waits if wait is not None), default=None)


def _until(text: str) -> float | None:
    """Seconds to a reset that is told as `6m0s`, as seconds, or as a time since 1970 in s or ms."""
    try:
        number = float(text)
    except ValueError:
        parts = _SPAN.findall(text)
        return sum(float(value) * _UNITS[unit] for value, unit in parts) if parts else None
    if number > 1e11:
        number /= 1000
    return max(0.0, number - time.time() if number > 1e8 else number)

"""HTTP to one vLLM server: retries, timeouts, concurrency and error messages, in one place.

A retried request cannot double a rollout. The caller gets one answer, that of the attempt that succeeded; the
server aborts what it computes for a connection that is gone, and no request but the loading of an adapter leaves
anything behind in the server.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx2
import stamina

from rnow_core.errors import EnvironmentMissing, RunFailed

T = TypeVar("T")
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT_S = 120.0
IDLE_S = 2.0
"""Idle connections are closed after this time: vLLM closes its end after 5 s, and a request that is sent at that
moment is lost."""

# without a handler, logging would print every retry to stderr
logging.getLogger("stamina").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens: a Unix socket or a URL (with or without `/v1`), exactly one of them.

    `role` names the server in messages ("the student's server"); `api_key_env` is the environment variable that
    holds its key.
    """

    role: str
    socket: Path | None = None
    url: str | None = None
    api_key_env: str | None = None

    def __str__(self) -> str:
        return f"{self.role} ({self.socket or self.url})"

    @property
    def base_url(self) -> str:
        """The address without `/v1`; a socket needs a host name too, which nobody reads."""
        return "http://vllm" if self.url is None else self.url.rstrip("/").removesuffix("/v1")

    def headers(self) -> dict[str, str]:
        """The authorization, from the environment. EnvironmentMissing when the variable is not set."""
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env)
        if not key:
            raise EnvironmentMissing(
                f"{self}: the environment variable {self.api_key_env}, which holds its API key, is not set",
                f"export {self.api_key_env}, or write it into .env",
            )
        return {"Authorization": f"Bearer {key}"}


class ServerError(RunFailed):
    """A server refused a request, or kept failing. `status` is None when there was no answer."""

    def __init__(self, message: str, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint)
        self.status = status


class TryAgain(Exception):
    """An answer that the next attempt may improve on: a failed connection, a 5xx, an aborted request."""

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Patience:
    """Says of one request whether another attempt is worth it: for `seconds` from its first failure on.

    Time that the server needs to be restarted does not count (`reset`).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    def reset(self) -> None:
        """Start again: the server is a new one."""
        self._since = None

    def __call__(self, error: Exception) -> bool | float:
        """False to give up, True for the usual back-off, or the seconds that the server asked for."""
        if not isinstance(error, TryAgain):
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        wait = min(error.retry_after or 0.0, LONGEST_WAIT_S)
        if now + wait - self._since > self._seconds:
            return False
        # jitter, or all requests come back in the same moment
        return True if error.retry_after is None else wait + random.uniform(0.01, 0.5)


class VLLMClient:
    """Requests to one server; at most `max_in_flight` at once, the others wait here.

    Args:
        endpoint: where the server is.
        max_in_flight: bound of concurrent POSTs; more than the server's `--max-num-seqs` only queues there.
        patience_s: how long a request is tried again after its first failure.
        timeout_s: how long one attempt may stay without an answer; a completion is answered when it is complete.
        on_down: called when the connection is refused or lost, once for all requests that lost it. It returns
            True when it has restarted the server, False when there was nothing to restart (the request is then
            tried again as after any failure), and raises to stop the run.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_in_flight: int = 256,
        patience_s: float = 180.0,
        timeout_s: float = 1800.0,
        on_down: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._patience_s, self._timeout_s = patience_s, timeout_s
        self._on_down = on_down
        self._slots = asyncio.Semaphore(max_in_flight)
        self._restarting = asyncio.Lock()
        self._lives = 0
        transport = None if endpoint.socket is None else httpx2.AsyncHTTPTransport(uds=str(endpoint.socket))
        self._http = httpx2.AsyncClient(
            transport=transport,
            base_url=endpoint.base_url,
            headers=endpoint.headers(),
            timeout=httpx2.Timeout(timeout_s, connect=10.0, pool=None),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=IDLE_S),
        )

    @property
    def restarts(self) -> bool:
        """Whether the server is restarted when it is gone: it is this run's own, and ends with it."""
        return self._on_down is not None

    async def get(self, path: str) -> Any:
        """The decoded answer to a GET."""
        return await self._request("GET", path, None, lambda answer: answer, True)

    async def post(
        self,
        path: str,
        body: dict[str, Any],
        read: Callable[[Any], T],
        *,
        retry_5xx: bool = True,
    ) -> T:
        """POST JSON and return what `read` makes of the answer.

        `read` raises TryAgain for an answer that is to be asked for again. `retry_5xx=False` is for requests
        whose failure is the server's considered answer.

        Raises:
            ServerError: refused (4xx), or still failing when patience ends.
        """
        return await self._request("POST", path, body, read, retry_5xx)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None, read: Callable[[Any], T], retry_5xx: bool
    ) -> T:
        patience = Patience(self._patience_s)
        # a GET is a question of a moment, and its answer may be what a request that holds a slot waits for
        async with self._slots if method == "POST" else nullcontext():
            try:
                async for attempt in stamina.retry_context(
                    on=patience, attempts=None, timeout=None, wait_initial=0.1, wait_max=10.0, wait_jitter=0.5
                ):
                    with attempt:
                        return read(await self._attempt(method, path, body, patience, retry_5xx))
            except TryAgain as error:
                self._fail(method, path, str(error), error.status)
        raise AssertionError("the retry loop ends with a result or an error")

    async def _attempt(
        self, method: str, path: str, body: dict[str, Any] | None, patience: Patience, retry_5xx: bool
    ) -> Any:
        life = self._lives
        try:
            response = await self._http.request(method, path, json=body)
        except httpx2.TimeoutException as error:
            raise TryAgain(f"no answer within {self._timeout_s:g} s ({type(error).__name__})") from error
        except httpx2.TransportError as error:
            if await self._revived(life):
                patience.reset()
            raise TryAgain(f"the connection failed: {error or type(error).__name__}") from error
        if response.status_code in RETRIED and (retry_5xx or response.status_code in (429, 503)):
            raise TryAgain(said_by(response), response.status_code, asked_wait(response.headers))
        if response.status_code != 200:
            self._fail(method, path, said_by(response), response.status_code)
        return _decoded(response)

    async def _revived(self, life: int) -> bool:
        """True when the server that was there in `life` has been replaced by a new one."""
        if self._on_down is None:
            return False
        async with self._restarting:
            if self._lives == life and await self._on_down():
                self._lives += 1
        return self._lives != life

    def _fail(self, method: str, path: str, reason: str, status: int | None) -> NoReturn:
        answer = "failed" if status is None else f"answered {status}"
        raise ServerError(
            f"{self.endpoint}: {method} {path} {answer}: {reason}", _hint(self.endpoint, status), status
        )


def _decoded(response: httpx2.Response) -> Any:
    if "json" not in response.headers.get("content-type", ""):
        return response.text
    try:
        return response.json()
    except ValueError as error:
        raise TryAgain(f"the answer is not JSON: {error}", response.status_code) from error


def said_by(response: httpx2.Response) -> str:
    """The server's own message: `error.message`, or what FastAPI and proxies send."""
    try:
        body = response.json()
        found = body.get("error", body.get("detail", body.get("message")))
        text = found.get("message") if isinstance(found, dict) else found
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(str(text or response.reason_phrase).split())[:600]


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from the header's number or date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _hint(endpoint: Endpoint, status: int | None) -> str:
    if status in (401, 403):
        return f"check the API key in {endpoint.api_key_env or 'the environment; none is configured'}"
    if status is None or status in RETRIED:
        return "look into the server's log; when it runs again, continue with: rnow run --resume"
    return "the server does not accept what rnow sends: check its model, its flags and its vLLM version"

"""How many requests may run at once: fewer when the server says so, more again when it copes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rnow_core.errors import RunFailed

NEAR = 0.9
PACE = 0.9
MOST_PATIENCE = 16


class NothingWorks(RunFailed):
    """Every request has failed for too long."""


class Closed(Exception):
    """No request may start any more."""


class AdaptiveLimit:
    """A gate for requests: additive increase, multiplicative decrease.

    The limit starts at `start`, which is also its maximum. A 429 halves it, at most once per `cool_down_s`, because
    the requests that were under way met the same wall. After `slow_down` with a time, nobody starts before it has
    passed. A window of `limit` successes adds one; up to NEAR of the limit at the last 429 every success does. After
    each further 429 it takes twice as many windows (at most MOST_PATIENCE), so that a wall once found is not run into
    all the time. From the first 429 on requests start evenly spread over the time that an answer takes.

    breaker_s: `failed` and `slow_down` raise NothingWorks when no request has succeeded for so long.
    """

    def __init__(
        self,
        start: int,
        *,
        cool_down_s: float = 1.0,
        breaker_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = start
        self.in_flight = 0
        self.successes = 0
        self.throttled_s = 0.0
        self._maximum, self._near = start, float(start)
        self._window = 0
        self._cool_down_s, self._breaker_s, self._clock = cool_down_s, breaker_s, clock
        self._halved_at = -cool_down_s
        self._paused_until = 0.0
        self._failing_since: float | None = None
        self._next_start = self._mean_s = 0.0
        self._throttled, self._patience = False, 1
        self._turn = asyncio.Lock()
        self._free = asyncio.Condition()
        self._closed = False

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """The right to one request; waits for a free one, its turn, and the end of a pause. Raises Closed."""
        async with self._turn, self._free:
            while self._closed or self.in_flight >= self.limit or self._clock() < self._opens():
                await self._wait(self._opens() - self._clock())
            self.in_flight += 1
            started = self._clock()
            self._next_start = started + self._spacing()
        try:
            yield
            self._took(self._clock() - started)
        finally:
            self.in_flight -= 1
            async with self._free:
                self._free.notify_all()

    async def rest(self, seconds: float) -> None:
        """Sleep; `close` ends it. Raises Closed."""
        until = self._clock() + seconds
        async with self._free:
            while (left := until - self._clock()) > 0:
                await self._wait(left)

    async def close(self) -> None:
        """Let no further request start; those in flight go on."""
        self._closed = True
        async with self._free:
            self._free.notify_all()

    def succeeded(self) -> None:
        """A request was answered."""
        self.successes += 1
        self._failing_since = None
        self._window += 1
        if self._window >= self.limit * self._patience or self.limit < self._near:
            self.limit = min(self._maximum, self.limit + 1)
            self._window = 0

    def slow_down(self, wait_s: float | None) -> None:
        """A 429: halve the limit, and let nobody start for `wait_s` seconds. Raises NothingWorks."""
        now = self._clock()
        until = now + (wait_s or 0.0)
        if until > self._paused_until:
            self.throttled_s += until - max(now, self._paused_until)
            self._paused_until = until
        if now - self._halved_at >= self._cool_down_s:
            self._halved_at, self._near, self._window = now, self.limit * NEAR, 0
            self.limit = max(1, self.limit // 2)
            self._patience = min(MOST_PATIENCE, 2 * self._patience) if self._throttled else 1
            self._throttled = True
        self._check(until, f"the server asks to wait {wait_s or 0:.0f} s")

    def failed(self, message: str) -> None:
        """Any other failure. Raises NothingWorks."""
        self._check(self._clock(), message)

    def _check(self, until: float, message: str) -> None:
        if self._failing_since is None:
            self._failing_since = self._clock()
        if until - self._failing_since > self._breaker_s:
            raise NothingWorks(
                f"no request has succeeded for {self._breaker_s / 60:g} minutes; the last failure: {message}",
                "look whether the server is up; the same command goes on from here",
            )

    def _opens(self) -> float:
        """When the next request may start, as far as time decides it."""
        return max(self._paused_until, self._next_start)

    def _spacing(self) -> float:
        """Seconds between two starts: what was let go in a pause would otherwise come as one burst."""
        return PACE * self._mean_s / self.limit if self._throttled else 0.0

    def _took(self, seconds: float) -> None:
        """An answer took so long: a moving mean over some windows."""
        self._mean_s += (seconds - self._mean_s) * (1 / (4 * self._maximum) if self._mean_s else 1.0)

    async def _wait(self, seconds: float) -> None:
        """Until something changes, or a pause of `seconds` (if positive) ends. Raises Closed."""
        if self._closed:
            raise Closed
        try:
            async with asyncio.timeout(max(seconds, 0.001) if seconds > 0 else None):
                await self._free.wait()
        except TimeoutError:
            return

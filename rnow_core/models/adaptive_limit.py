"""How many requests may run at once: fewer when the server says so, more again when it copes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rnow_core.errors import RunFailed
from rnow_core.models.pace import Pace

NEAR = 0.9
MOST_PATIENCE = 4


class NothingWorks(RunFailed):
    """Every request has failed for too long."""


class Closed(Exception):
    """No request may start any more."""


class AdaptiveLimit:
    """A gate for requests: how many at once, and from the first 429 on how many a second (`Pace`).

    The limit starts at `start`, which is also its maximum. A 429 halves it, at most once per `cool_down_s`, because
    the requests that were under way met the same wall. After `slow_down` with a time, nobody starts before it has
    passed. Every success adds one, up to where the limit was; if as many requests as it allows were under way, it
    may itself have been the wall: then only up to NEAR of it, and further on a window of `limit` successes adds one,
    twice as many windows after each further 429 (at most MOST_PATIENCE).

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
        self._pace = Pace()
        self._throttled, self._patience = False, 1
        self._turn = asyncio.Lock()
        self._free = asyncio.Condition()
        self._closed = False

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """The right to one request; waits for a free one, its turn, and the end of a pause. Raises Closed."""
        in_line = self._turn.locked()
        async with self._turn, self._free:
            late = in_line and self.in_flight < self.limit
            while self._closed or self.in_flight >= self.limit or self._clock() < self._opens():
                late = self.in_flight < self.limit
                await self._wait(self._opens() - self._clock())
            self.in_flight += 1
            self._pace.start(self._clock(), catch_up=late)
        try:
            yield
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
        self._pace.turned_away()
        if now - self._halved_at >= self._cool_down_s:
            self._halved_at, self._window = now, 0
            self._pace.refused(now, until, self.limit)
            self._find_wall()
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
        return max(self._paused_until, self._pace.opens)

    def _find_wall(self) -> None:
        """Halve the limit, and remember how far up it was safe."""
        full = self.in_flight + 1 >= self.limit and not self._pace.aimless
        self._near = self.limit * NEAR if full else float(max(self._near, self.limit))
        self.limit = max(1, self.limit // 2)
        self._patience = min(MOST_PATIENCE, 2 * self._patience) if self._throttled and full else 1
        self._throttled = True

    async def _wait(self, seconds: float) -> None:
        """Until something changes, or a pause of `seconds` (if positive) ends. Raises Closed."""
        if self._closed:
            raise Closed
        try:
            async with asyncio.timeout(max(seconds, 1e-6) if seconds > 0 else None):
                await self._free.wait()
        except TimeoutError:
            return

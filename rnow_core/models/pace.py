"""How many requests a second a server takes, learnt from its refusals."""

from __future__ import annotations

from math import exp, sqrt

SLACK_S = 0.03
"""Lateness that later requests make up for: timers fire late, and the pace is to hold all the same."""

LEAST_S = 0.25
"""A refusal that comes sooner says how many requests may come at once, not how many a second."""

BACK = 0.98
"""Of what the bounds give: the first try should hold."""

SLOWEST = 0.5
"""Requests a second at the least: a server that takes fewer says how long to wait."""

FIRST_PATIENCE_S, MOST_PATIENCE_S, LONGER = 4.0, 64.0, 4.0

MEMORY_S = 30.0
"""So much of the past counts for what a server is known to let through."""

KNOWN_S = 1.0
"""Less of it is no knowledge."""

UNDER, FAIR = 0.7, 0.35
"""Refusals below UNDER of what a server is known to let through are no matter of pace, if FAIR of the requests pass."""

AIMLESS_S, MANY = 30.0, 20


class Pace:
    """Starts of requests, evenly spread from the first refusal on.

    What a server sustains lies between what it let through, a burst of LEAST_S seconds taken off, and the pace of
    the moment of its refusal: the geometric mean of both, times BACK, is the pace that goes on. It grows, t seconds
    later, to 1 + (t / patience)^3 of that: hardly at first, fast once a higher pace is due. Each refusal makes the
    patience LONGER times as long, so that the bounds close in; it begins anew when the pace has doubled without one.
    A refusal that comes at once halves the pace, at first what the limit allows.

    Some servers refuse a share of the requests however slowly they come. Going slower is then no use: when refusals
    go on far below a pace that was let through before, there is none for AIMLESS_S seconds, or until most requests
    are refused.
    """

    def __init__(self) -> None:
        self._base: float | None = None
        self._started = 0
        self._passed = self._tried = self._time_s = 0.0
        self._aimless_until: float | None = None
        self._since: float | None = None
        self._patience_s = 0.0
        self._began: float | None = None
        self._count = 0
        self._next = 0.0

    @property
    def opens(self) -> float:
        """When the next request may start."""
        return self._next

    def rate(self, now: float) -> float | None:
        """Requests a second at this time; None without a bound."""
        if self._base is None or self._began is None:
            return None
        return self._base * (1 + (max(0.0, now - self._began) / self._patience_s) ** 3)

    def start(self, now: float, *, catch_up: bool) -> None:
        """A request starts now; it makes up for a late timer, where `catch_up` says that it does."""
        self._began = now if self._began is None else self._began
        self._count += 1
        self._started += 1
        rate = self.rate(now)
        if rate is not None:
            self._next = max(self._next, now - (SLACK_S if catch_up else 0.0)) + 1 / rate

    def turned_away(self) -> None:
        """One of the requests that started was refused."""
        self._count = max(0, self._count - 1)

    def refused(self, now: float, until: float, limit: int) -> None:
        """The server refuses, and takes no request before `until`; `limit` requests were allowed at once."""
        active = 0.0 if self._began is None else max(0.0, now - self._began)
        # pauses count: a server saves up for a burst meanwhile
        if not self._is_aimless(now, now - self._since if self._since is not None else active):
            self._go_slower(now, active, limit)
        self._since = now
        self._began, self._count, self._started, self._next = until, 0, 0, until

    @property
    def aimless(self) -> bool:
        """Whether refusals do not depend on the pace."""
        return self._aimless_until is not None

    def _is_aimless(self, now: float, span: float) -> bool:
        """Whether going slower is no use; remembers what passed in the last `span` seconds."""
        if self._aimless_until is not None:
            fair = self._count >= FAIR * self._started or self._started < MANY
            if now < self._aimless_until and fair:
                return True
            self._aimless_until = None
            self._passed = self._tried = self._time_s = 0.0
        fading = exp(-span / MEMORY_S)
        self._passed = self._passed * fading + self._count
        self._tried = self._tried * fading + self._started
        self._time_s = self._time_s * fading + span
        pace = self.rate(now)
        if pace is None or self._time_s < KNOWN_S or self._passed < FAIR * self._tried:
            return False
        if pace < UNDER * self._passed / self._time_s:
            self._aimless_until, self._base = now + AIMLESS_S, None
        return self._aimless_until is not None

    def _go_slower(self, now: float, active: float, limit: int) -> None:
        pace = self.rate(now)
        if active < LEAST_S:
            self._base = max(SLOWEST, (pace or limit / LEAST_S) / 2)
            self._patience_s = FIRST_PATIENCE_S
            return
        mean = max(1, self._count) / active
        # a pace that was not made use of is no bound
        highest = min(pace or mean, 2 * mean)
        lowest = mean * active / (active + LEAST_S)
        known = self._base is not None and highest < 2 * self._base
        self._patience_s = min(MOST_PATIENCE_S, LONGER * self._patience_s) if known else FIRST_PATIENCE_S
        self._base = max(SLOWEST, BACK * sqrt(lowest * highest))

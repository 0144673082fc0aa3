"""How many requests a second a server takes, learnt from its refusals."""

from __future__ import annotations

from math import sqrt

SLACK_S = 0.03
"""Lateness that later requests make up for: timers fire late, and the pace is to hold all the same."""

LEAST_S = 0.25
"""A refusal that comes sooner says how many requests may come at once, not how many a second."""

BACK = 0.98
"""Of what the bounds give: the first try should hold."""

FIRST_PATIENCE_S, MOST_PATIENCE_S, LONGER = 4.0, 64.0, 4.0


class Pace:
    """Starts of requests, evenly spread from the first refusal on.

    What a server sustains lies between what it let through, a burst of LEAST_S seconds taken off, and the pace of
    the moment of its refusal: the geometric mean of both, times BACK, is the pace that goes on. It grows, t seconds
    later, to 1 + (t / patience)^3 of that: hardly at first, fast once a higher pace is due. Each refusal makes the
    patience LONGER times as long, so that the bounds close in; it begins anew when the pace has doubled without one.
    A refusal that comes at once halves the pace, at first what the limit allows.
    """

    def __init__(self) -> None:
        self._base: float | None = None
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
        rate = self.rate(now)
        if rate is not None:
            self._next = max(self._next, now - (SLACK_S if catch_up else 0.0)) + 1 / rate

    def turned_away(self) -> None:
        """One of the requests that started was refused."""
        self._count = max(0, self._count - 1)

    def refused(self, now: float, until: float, limit: int) -> None:
        """The server refuses, and takes no request before `until`; `limit` requests were allowed at once."""
        active = 0.0 if self._began is None else max(0.0, now - self._began)
        pace = self.rate(now)
        if active < LEAST_S:
            self._base, self._patience_s = (pace or limit / LEAST_S) / 2, FIRST_PATIENCE_S
        else:
            mean = max(1, self._count) / active
            # a pace that was not made use of is no bound
            highest = min(pace or mean, 2 * mean)
            lowest = mean * active / (active + LEAST_S)
            known = self._base is not None and highest < 2 * self._base
            self._patience_s = min(MOST_PATIENCE_S, LONGER * self._patience_s) if known else FIRST_PATIENCE_S
            self._base = BACK * sqrt(lowest * highest)
        self._began, self._count, self._next = until, 0, until

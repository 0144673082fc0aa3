"""Where the wall time of a step goes. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType


class PhaseClock:
    """Seconds by phase since the last `take`.

        with clock.phase("train"): ...
        async with clock.phase("score"): ...

    A phase counts while it is entered at least once, so that 64 requests scored side by side for a second are
    one second; phases of different names may overlap, and then their sum exceeds the step.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """`now` gives seconds and never runs backwards."""
        self._now = now
        self._depth: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._covered = 0.0
        self._start = self._last = now()

    def phase(self, name: str) -> Phase:
        """A context manager, sync and async, that counts as `time/<name>`."""
        return Phase(self, name)

    def take(self) -> dict[str, float]:
        """`time/<phase>` for each phase since the last call, `time/step` for all of it and `time/other` for
        what no phase covered. Phases that are still entered go on counting from here.
        """
        self._advance()
        step = self._last - self._start
        seconds = {f"time/{name}": value for name, value in self._seconds.items()}
        result = {**seconds, "time/step": step, "time/other": max(0.0, step - self._covered)}
        self._seconds, self._covered, self._start = {}, 0.0, self._last
        return result

    def enter(self, name: str) -> None:
        """Begin a phase; `phase` calls this."""
        self._advance()
        self._depth[name] = self._depth.get(name, 0) + 1

    def leave(self, name: str) -> None:
        """End a phase; `phase` calls this."""
        self._advance()
        self._depth[name] -= 1
        if self._depth[name] == 0:
            del self._depth[name]

    def _advance(self) -> None:
        """Book the time since the last event to every phase that is entered."""
        now = self._now()
        elapsed, self._last = now - self._last, now
        for name in self._depth:
            self._seconds[name] = self._seconds.get(name, 0.0) + elapsed
        if self._depth:
            self._covered += elapsed


class Phase:
    """One stay in a phase of a `PhaseClock`."""

    def __init__(self, clock: PhaseClock, name: str) -> None:
        self._clock = clock
        self._name = name

    def __enter__(self) -> None:
        self._clock.enter(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.leave(self._name)

    async def __aenter__(self) -> None:
        self._clock.enter(self._name)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.leave(self._name)

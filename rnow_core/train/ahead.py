"""Rollouts of one step after the other, one step ahead of training where the run allows it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rnow_core.rollout.collect import Collected


class StepRollouts:
    """Collects the rollouts of steps in order.

    With `ahead` the next step's collection begins as soon as a step's rollouts are taken, so that it overlaps with
    their training: those rollouts come from a version that is one update old.
    """

    def __init__(
        self, collect: Callable[[int], Awaitable[Collected]], *, last_step: int, ahead: bool
    ) -> None:
        self._collect, self._last, self._ahead = collect, last_step, ahead
        self._next: asyncio.Future[Collected] | None = None

    async def take(self, step: int) -> Collected:
        """The rollouts of `step`; steps are taken in order."""
        collected = await (self._next or self._collect(step))
        self._next = None
        if self._ahead and step < self._last:
            self._next = asyncio.ensure_future(self._collect(step + 1))
        return collected

    async def close(self) -> None:
        """Drop what was begun and will not be trained; a later `take` collects anew."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
            self._next = None

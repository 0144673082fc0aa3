"""A bounded pool that keeps fresh ones ready: nothing is used twice, and starts are waited for only when they must."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from rnow_core.errors import RolloutFailed

Item = TypeVar("Item")
_AHEAD = 1


class WarmPool(Generic[Item]):
    """Items of several kinds, at most `limit` at once, spares and those being made included.

    There are to be as many of a kind as were once in use at the same time, and one more, so that rollouts one after
    the other need not wait either; spares of other kinds make room.
    """

    def __init__(
        self,
        make: Callable[[Hashable], Awaitable[Item]],
        end: Callable[[Item], Coroutine[Any, Any, None]],
        limit: int,
        at_once: int = 4,
    ) -> None:
        self._make, self._end, self._limit = make, end, limit
        self._starting = asyncio.Semaphore(at_once)
        self._spares: dict[Hashable, deque[Item]] = defaultdict(deque)
        self._coming: dict[Hashable, int] = defaultdict(int)
        self._in_use: dict[Hashable, int] = defaultdict(int)
        self._wanted: dict[Hashable, int] = defaultdict(int)
        self._count = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self, kind: Hashable) -> Item:
        """A fresh item: a spare, or a new one, or the first that can be made when others are given back.

        Raises what making one raises; RolloutFailed when the pool is closed meanwhile.
        """
        item = await self._spare_or_place(kind)
        self._in_use[kind] += 1
        self._wanted[kind] = max(self._wanted[kind], self._in_use[kind] + _AHEAD)
        self._fill(kind)
        if item is not None:
            return item
        try:
            return await self._made(kind)
        except BaseException:
            self._in_use[kind] -= 1
            await asyncio.shield(self._free())
            raise

    def give_back(self, kind: Hashable, item: Item) -> None:
        """End an item in the background; its place is free once it is gone."""
        self._in_use[kind] -= 1
        self._start(self._ended(kind, item))

    def prepare(self, kind: Hashable, count: int) -> None:
        """Make `count` ahead, as far as there is room."""
        self._wanted[kind] = max(self._wanted[kind], count)
        self._fill(kind)

    async def close(self) -> None:
        """End the spares and wait for what is under way; takers that wait fail."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        spares = [item for items in self._spares.values() for item in items]
        self._spares.clear()
        await asyncio.gather(*(self._end(item) for item in spares), return_exceptions=True)

    async def _spare_or_place(self, kind: Hashable) -> Item | None:
        """A spare; None when the caller may make one: its place is counted already."""
        async with self._changed:
            while not self._closed:
                if self._spares[kind]:
                    return self._spares[kind].popleft()
                if self._count < self._limit:
                    self._count += 1
                    return None
                if self._drop_spare_of_another(kind):
                    return None
                await self._changed.wait()
        raise RolloutFailed("the sandboxes are closed")

    def _drop_spare_of_another(self, kind: Hashable) -> bool:
        for other, spares in self._spares.items():
            if other != kind and spares:
                self._wanted[other] = self._in_use[other]
                self._start(self._end(spares.popleft()))
                return True
        return False

    async def _made(self, kind: Hashable) -> Item:
        async with self._starting:
            return await self._make(kind)

    async def _free(self) -> None:
        async with self._changed:
            self._count -= 1
            self._changed.notify_all()

    async def _ended(self, kind: Hashable, item: Item) -> None:
        try:
            await self._end(item)
        finally:
            await self._free()
            self._fill(kind)

    def _fill(self, kind: Hashable) -> None:
        have = self._in_use[kind] + len(self._spares[kind]) + self._coming[kind]
        for _ in range(min(self._wanted[kind] - have, self._limit - self._count)):
            if self._closed:
                return
            self._count += 1
            self._coming[kind] += 1
            self._start(self._make_spare(kind))

    async def _make_spare(self, kind: Hashable) -> None:
        try:
            item = await self._made(kind)
        except Exception:  # whoever needs one makes it, and sees the error
            await self._free()
            return
        finally:
            self._coming[kind] -= 1
        async with self._changed:
            self._spares[kind].append(item)
            self._changed.notify_all()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()

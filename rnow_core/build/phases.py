"""The phases of a step: timed, and with the device in the hands of whoever works."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager

from rnow_core.build.engine import Role
from rnow_core.rollout.parts import Phase

Clock = Callable[[str], AbstractContextManager[object]]
Phases = Callable[[Phase], AbstractAsyncContextManager[object]]

STUDENT_SAMPLES: Mapping[Phase, Role] = {
    "rollout": "student",
    "score": "teacher",
    "train": "trainer",
    "publish": "student",
}
TEACHER_SAMPLES: Mapping[Phase, Role] = {**STUDENT_SAMPLES, "rollout": "teacher"}
"""Who works in a phase of training, and in one of the teacher's own evaluation."""


def make_phases(
    clock: Clock, take_turn: Callable[[Role], Awaitable[None]], workers: Mapping[Phase, Role]
) -> Phases:
    """A context manager a phase. The time of handing the device over counts to the phase that needs it."""

    @asynccontextmanager
    async def phase(name: Phase) -> AsyncIterator[None]:
        with clock(name):
            await take_turn(workers[name])
            yield

    return phase

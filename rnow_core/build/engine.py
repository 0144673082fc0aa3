"""What samples and scores in a run, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from rnow_core.models.seams import Learner, Sampler, Teacher

if TYPE_CHECKING:  # `validate` uses this module where no torch is
    from rnow_core.models.output_head import OutputHead

SELF = "self"

Role = Literal["student", "teacher", "trainer"]

Progress = Callable[[float, str], None]
"""Called while something takes long to start: seconds so far, and what is being waited for."""


class Engine(Protocol):
    """Sampler and teachers of one kind. Complete only after `start`.

    `context_window` is how many tokens a conversation may have here. `adapters` is where the learner publishes its
    versions, None where the sampler shares its weights.
    `teacher_head` reads the hidden states of a teacher in this process; None without one.
    For the self-check, `student_as_teacher` scores weights of the student in the way that teachers score, and
    `student_here` scores the same weights in this process (None: they are the learner's own).
    """

    sampler: Sampler
    teachers: Mapping[str, Teacher]
    baseline: Sampler | None
    student_as_teacher: Teacher
    student_here: Teacher | None
    adapters: Path | None
    context_window: int
    teacher_head: OutputHead | None

    async def start(self, learner: Learner, progress: Progress) -> None:
        """Start what has to be started, and give the sampler the learner's weights."""
        ...

    async def take_turn(self, role: Role) -> None:
        """Give the device to a role, where roles share one that does not hold them all."""
        ...

    async def close(self) -> None:
        """End it, whatever state it is in."""
        ...

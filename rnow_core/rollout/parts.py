"""What a rollout is made with: the parts that `build` chose, and the settings that go with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rnow_core.data.renderer import Renderer
from rnow_core.data.teacher_context import TeacherContext
from rnow_core.env.toolbox import ToolBox, ToolSession
from rnow_core.models.seams import Sampler, Teacher
from rnow_core.rollout.agent import Agent
from rnow_core.types import Message, Prompt, SamplingParams, SignalWish

NO_CONTEXT = TeacherContext()

Phase = Literal["rollout", "score", "train", "publish"]


class RewardScorer(Protocol):
    """Scores finished conversations with the project's rewards."""

    async def score(
        self, prompt: Prompt, messages: list[Message], session: ToolSession | None
    ) -> Mapping[str, float]:
        """One value for each reward that the row names, sandboxed ones in the session; RolloutFailed when one fails."""
        ...

    def total(self, rewards: Mapping[str, float]) -> float:
        """The values as one reward."""
        ...


@dataclass(frozen=True)
class RolloutParts:
    """Everything `collect` needs. `teachers` maps a name to a teacher; rows without a `teacher` take the first."""

    renderer: Renderer
    sampler: Sampler
    teachers: Mapping[str, Teacher]
    rewards: RewardScorer | None
    params: SamplingParams
    context_window: int
    seed: int
    template_options: Mapping[str, Any] = field(default_factory=dict)
    contexts: Mapping[str, TeacherContext] = field(default_factory=dict)
    """By teacher, what only it sees; a teacher without an entry sees a row's own `teacher_context`."""
    teacher_windows: Mapping[str, int] = field(default_factory=dict)
    """By teacher, the tokens that it reads; without an entry it is given whatever there is."""
    teacher_samples: bool = False
    """Whether the sampler is the row's teacher, with its context."""
    agent: Agent | None = None
    """Tools and limits of episodes with several turns; None where no row has any."""
    toolbox: ToolBox | None = None
    """Where tools and sandboxed rewards run; None where there are none."""
    signal: SignalWish | None = None
    """What teachers are asked for beside the logprobs of sampled ids; None for nothing."""
    deadline: float | None = None
    """Seconds for a whole rollout, tool calls included; None for no limit."""
    max_staleness: int | None = None
    """How many versions a rollout may be behind the newest that its step could have been sampled from; None for
    any, also for versions that are not the learner's.
    """
    phase: Callable[[Phase], AbstractAsyncContextManager[object]] = nullcontext
    """Entered around each phase, to time it and to give the device to whoever works in it."""

    @property
    def score_by_group(self) -> bool:
        """True when every teacher works beside the sampler and likes each group as soon as it is complete."""
        return bool(self.teachers) and all(teacher.unit == "group" for teacher in self.teachers.values())

    def has_turns(self, prompt: Prompt) -> bool:
        """Whether the row's episode has turns with tool calls."""
        return self.agent is not None and self.agent.max_turns > 1 and self.agent.tools.agentic(prompt)

    def teacher_of(self, prompt: Prompt) -> str:
        """The name of the teacher that scores this row."""
        return prompt.teacher or next(iter(self.teachers or self.contexts))

    def seen_by_teacher(self, prompt: Prompt) -> Prompt:
        """The row with its teacher's context; the same object when it has none."""
        if not (self.teachers or self.contexts):
            return prompt
        return self.contexts.get(self.teacher_of(prompt), NO_CONTEXT).in_front_of(prompt)

    def seen_by_sampler(self, prompt: Prompt) -> Prompt:
        """The row as it is, or as its teacher sees it where the teacher samples."""
        return self.seen_by_teacher(prompt) if self.teacher_samples else prompt

    def render(self, prompt: Prompt, agentic: bool) -> tuple[str, tuple[int, ...]]:
        """Text and ids of a row's prompt; with its tools where it is `agentic`. Raises TemplateRefused."""
        tools = self.agent.tools.schemas(prompt) if agentic and self.agent is not None else None
        return self.renderer.render_row(prompt, tools=tools, **self.template_options)

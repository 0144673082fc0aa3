"""Decides whether a finished conversation of a teacher is a row to train on: the student's window, then rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rnow_core.data.conversations import Conversations
from rnow_core.data.messages import check_messages
from rnow_core.data.renderer import Renderer, Tools
from rnow_core.data.row_issues import RowIssues
from rnow_core.env.call import RewardFailure
from rnow_core.env.rewards import ProjectRewards
from rnow_core.env.toolbox import ToolSession
from rnow_core.errors import FindingsError, RnowError
from rnow_core.rollout.verdict import Reason
from rnow_core.types import Message, Prompt


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is None for a row to train on; `reward` is None where nothing was scored."""

    reason: Reason | None = None
    detail: str = ""
    reward: float | None = None


@dataclass(frozen=True)
class Student:
    """The reader of the rows: its tokenizer, the variables of its template, its context window in tokens."""

    renderer: Renderer
    options: Mapping[str, Any]
    window: int

    def tokens(self, prompt: Prompt, messages: Sequence[Message], schemas: Tools | None) -> int:
        """Tokens of a row as `dataset_type: sft` trains on it. RnowError when the template cannot write it."""
        issues = RowIssues(prompt.file, prompt.line)
        checked = check_messages(issues, list(messages), "sft")
        if issues.findings:
            raise FindingsError(issues.findings)
        row = replace(prompt, messages=checked)
        # one for each row: it would keep what it renders by file and line, which the samples of a prompt share
        rows = Conversations(self.renderer, lambda _: schemas, self.options)
        return len(rows.tokenize(row).ids_T)


@dataclass(frozen=True)
class Judge:
    """What a conversation must pass, each part None where it is not asked for.

    schemas: the tools that a row is rendered with. sandboxed: the rewards that run in the session's sandbox.
    identity: changes with all that a verdict follows from; a journaled one under another identity is not used.
    """

    student: Student | None = None
    rewards: ProjectRewards | None = None
    min_reward: float | None = None
    sandboxed: frozenset[str] = frozenset()
    schemas: Callable[[Prompt], Tools | None] = field(default=lambda _: None)
    identity: str = ""

    def needs_sandbox(self, prompt: Prompt) -> bool:
        """Whether a reward of the row looks at what its tools left."""
        return self.rewards is not None and any(name in self.sandboxed for name in prompt.rewards)

    async def close(self) -> None:
        """End the processes of the rewards."""
        if self.rewards is not None:
            await self.rewards.close()

    async def verdict(self, prompt: Prompt, messages: list[Message], session: ToolSession | None) -> Verdict:
        """What is to become of a conversation that is complete. RunFailed when rewards cannot be run at all."""
        if problem := await self._unreadable(prompt, messages):
            return problem
        if self.rewards is None:
            return Verdict()
        try:
            reward = self.rewards.total(await self.rewards.score(prompt, messages, session))
        except RewardFailure as error:
            return Verdict("error", str(error))
        if self.min_reward is not None and reward < self.min_reward:
            return Verdict("low-reward", f"the reward is {reward:g}, wanted {self.min_reward:g}", reward)
        return Verdict(reward=reward)

    async def _unreadable(self, prompt: Prompt, messages: list[Message]) -> Verdict | None:
        if self.student is None:
            return None
        try:
            tokens = await asyncio.to_thread(self.student.tokens, prompt, messages, self.schemas(prompt))
        except RnowError as error:
            return Verdict("template-refused", error.message)
        if tokens <= self.student.window:
            return None
        detail = f"{tokens} tokens as the student reads it, its window has {self.student.window}"
        return Verdict("too-long-for-student", detail)

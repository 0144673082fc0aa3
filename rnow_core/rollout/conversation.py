"""A conversation as it grows: exact ids with mask and logprobs beside the messages for people and rewards.

Nothing that was sampled or rendered is ever rendered again: turns are only added at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnow_core.types import Completion, Message, Trajectory


class Conversation:
    """Starts with a rendered prompt; `tail` is the text that the next reply continues."""

    def __init__(self, messages: Sequence[Message], text: str, ids: Sequence[int]) -> None:
        self.messages = list(messages)
        self.tail = text
        self.turn = 0
        self.policy: str | None = None
        """The version that sampled the first turn: the oldest of the episode."""
        self.malformed = 0
        self.tool_calls = 0
        self.tool_errors = 0
        self._ids = list(ids)
        self._mask = [False] * len(ids)
        self._mu = [0.0] * len(ids)
        self._turns = [0] * len(ids)
        self._prompt_length = len(ids)

    @property
    def ids(self) -> Sequence[int]:
        """All ids so far."""
        return self._ids

    def add_reply(self, completion: Completion) -> None:
        """A sampled turn: every id of it is trained."""
        self.turn += 1
        self.policy = self.policy or completion.policy
        n = len(completion.ids)
        self._extend(completion.ids, True, completion.logprobs, self.turn, n)

    def add_between(self, messages: Sequence[Message], text: str, ids: Sequence[int]) -> None:
        """What stands between two turns: tool results or a user's message, with the template's glue."""
        self.messages.extend(messages)
        self.tail = text
        self._extend(ids, False, [0.0] * len(ids), 0, len(ids))

    def trajectory(self) -> Trajectory:
        """The whole of it, as the teacher scores and the learner trains it."""
        return Trajectory(tuple(self._ids), tuple(self._mask), tuple(self._mu), self._prompt_length)

    def turns(self) -> tuple[int, ...]:
        """Per id, the number of its sampled turn from 1; 0 where the mask is False."""
        return tuple(self._turns)

    def _extend(self, ids: Sequence[int], trained: bool, mu: Sequence[float], turn: int, n: int) -> None:
        self._ids.extend(ids)
        self._mask.extend([trained] * n)
        self._mu.extend(mu)
        self._turns.extend([turn] * n)

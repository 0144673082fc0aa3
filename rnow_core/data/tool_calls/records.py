"""What a reply holds, and the collector that the parsers fill."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnow_core.types import Message

MAX_PROBLEMS = 64
"""Malformed calls described in one reply. Each may cost a look at the whole text: the bound keeps that linear."""
_EXCERPT, _WHAT = 200, 300
_ID = re.compile(r"(?!call)[A-Za-z0-9]{9}")
"""Ids as Mistral's templates demand them, and not in the form of the counted ones."""

ToolSchemas = Sequence[Mapping[str, Any]]
"""Tool schemas in the OpenAI form."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One well-formed call. `id` is the model's own where its format has ids, else counted."""

    name: str
    arguments: dict[str, Any]
    id: str


@dataclass(frozen=True, slots=True)
class CallProblem:
    """A malformed call: a message for the model, the beginning of what it wrote, and an id to answer it by.

    The answer to it may be a tool message: templates that check ids take this one.
    """

    message: str
    excerpt: str
    id: str


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A sampled assistant turn. Text around the calls is the content; None as reasoning: there was none."""

    content: str
    reasoning: str | None
    calls: tuple[ToolCall, ...] = ()
    problems: tuple[CallProblem, ...] = ()

    def message(self) -> Message:
        """The turn as an assistant message in the OpenAI form, arguments as objects."""
        message: Message = {"role": "assistant", "content": self.content}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.calls
            ]
        return message


class Collector:
    """Gathers the parts of one reply. `expected` is an example of a call, for the messages."""

    def __init__(self, expected: str, first_call: int) -> None:
        self._expected = expected
        self._first_call = first_call
        self._texts: list[str] = []
        self._calls: list[ToolCall] = []
        self._problems: list[CallProblem] = []
        self._ids: set[str] = set()

    @property
    def full(self) -> bool:
        """True when so much was malformed that the rest of the reply is not looked at."""
        return len(self._problems) >= MAX_PROBLEMS

    def text(self, text: str) -> None:
        """A piece of content."""
        self._texts.append(text)

    def call(self, name: str, arguments: dict[str, Any], call_id: object = None) -> None:
        """A well-formed call. An id that templates would refuse, or that came before, is replaced."""
        usable = isinstance(call_id, str) and _ID.fullmatch(call_id) and call_id not in self._ids
        unique = str(call_id) if usable else self._counted()
        self._ids.add(unique)
        self._calls.append(ToolCall(name, arguments, unique))

    def problem(self, what: str, excerpt: str) -> None:
        """A malformed call: what is wrong with it, and its text."""
        number = len(self._calls) + len(self._problems) + 1
        message = f"Tool call {number} was not run: {what[:_WHAT]}. Expected format:\n{self._expected}"
        self._problems.append(CallProblem(message, excerpt[:_EXCERPT], self._counted()))

    def _counted(self) -> str:
        """An id by position in the conversation, in the form that every template takes."""
        return f"call{self._first_call + len(self._calls) + len(self._problems):05d}"

    def reply(self, reasoning: str | None) -> ParsedReply:
        """The record. Without calls the content is the text as it is; beside calls it is stripped."""
        calls, problems = tuple(self._calls), tuple(self._problems)
        if not calls and not problems:
            return ParsedReply("".join(self._texts), reasoning)
        texts = [text.strip() for text in self._texts]
        return ParsedReply("\n".join(text for text in texts if text), reasoning, calls, problems)

"""A chat teacher made of a sampler: messages and tools become ids, what is sampled becomes a message again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnow_core.data.conversations import as_at_rollout
from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls.formats import Format
from rnow_core.data.tool_calls.reasoning import split_reasoning
from rnow_core.data.tool_calls.records import ParsedReply
from rnow_core.models.chat_http import ChatAnswer, ChatRequest, NotThisOne
from rnow_core.models.seams import Sampler
from rnow_core.types import Message, SamplingParams

MALFORMED = "malformed call: "
"""What stands before the text of a call that could not be read: no JSON, so that no row with it is trained on."""


class SampledTeacher:
    """Asks a sampler in the form of the model's own chat template, and reads replies as rollouts do.

    window: tokens that prompt and reply may have together. form: how the model writes tool calls, None where it is
    never shown tools.
    """

    def __init__(self, renderer: Renderer, sampler: Sampler, window: int, form: Format | None) -> None:
        self._renderer, self._sampler, self._window, self._format = renderer, sampler, window, form

    async def ask(
        self,
        request: ChatRequest,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        key: int = 0,
    ) -> ChatAnswer:
        """One reply, which costs nothing; `key` (64 bit) is the only source of its randomness.

        Raises:
            NotThisOne: the conversation leaves no room for a reply.
            TemplateRefused: the model's chat template takes no such conversation.
            RunFailed: the model cannot be sampled from any more.
        """
        text = self._renderer.render(as_at_rollout(messages, self._renderer), tools=tools or None)
        ids = self._renderer.encode(text)
        room = self._window - len(ids)
        if room < 1:
            raise NotThisOne("too-long", f"{len(ids)} tokens, and the context window has {self._window}")
        params = SamplingParams(
            max_tokens=min(request.max_tokens, room),
            stop_ids=self._renderer.stop_ids,
            temperature=request.temperature,
        )
        done = await self._sampler.sample(ids, params, key)
        complete = done.stop_reason == "stop"
        said = self._renderer.decode(done.ids[:-1] if complete else done.ids)
        taken = sum(len(message.get("tool_calls") or ()) for message in messages)
        message = self._message(said, text, tools, taken)
        return ChatAnswer(
            message,
            finish=("tool_calls" if message.get("tool_calls") else "stop") if complete else "length",
            tokens_in=len(ids),
            tokens_out=len(done.ids),
            cost=0.0,
        )

    async def close(self) -> None:
        """Free the sampler."""
        await self._sampler.close()

    def _message(self, said: str, prompt: str, tools: Sequence[Mapping[str, Any]], taken: int) -> Message:
        if self._format is None or not tools:
            reasoning, rest = split_reasoning(said, prompt)
            return ParsedReply(rest, reasoning).message()
        reply = self._format.parse(said, prompt=prompt, tools=tools, first_call=taken)
        message = reply.message()
        malformed = [
            {
                "id": problem.id,
                "type": "function",
                "function": {"name": "", "arguments": MALFORMED + problem.excerpt},
            }
            for problem in reply.problems
        ]
        return (
            {**message, "tool_calls": [*message.get("tool_calls", []), *malformed]} if malformed else message
        )

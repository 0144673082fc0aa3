"""Rows of given conversations -> the ids and masks that `sft` trains on, each rendered once."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from rnow_core.data.bridge import BridgeError, conversation_ids
from rnow_core.data.renderer import Renderer, Tools
from rnow_core.types import Message, Prompt

CACHED_TOKENS = 1 << 26
"""Tokens that are kept rendered, at five bytes each; conversations beyond them are rendered whenever they come up."""


@dataclass(frozen=True, slots=True)
class TokenizedConversation:
    """`mask_T` is True on trained tokens, never on the first. `text_bytes`: UTF-8 bytes of the trained tokens' text,
    special tokens left out.
    """

    ids_T: Sequence[int]
    mask_T: Sequence[bool]
    text_bytes: int


class Conversations:
    """Renders rows with a student's chat template, to the ids that the same turns would have at rollout.

    `schemas` gives the tools that a row offers, None for none; `options` are the template's variables;
    `last_turn_only` trains the last assistant turn instead of all.
    """

    def __init__(
        self,
        renderer: Renderer,
        schemas: Callable[[Prompt], Tools | None],
        options: Mapping[str, Any],
        *,
        last_turn_only: bool = False,
    ) -> None:
        self._renderer = renderer
        self._schemas = schemas
        self._options = dict(options)
        self._last_turn_only = last_turn_only
        self._kept: dict[tuple[str, int], tuple[array[int], bytes, int]] = {}
        self._room = CACHED_TOKENS

    def tokenize(self, row: Prompt) -> TokenizedConversation:
        """Ids and mask of a row. BridgeError or TemplateRefused when the template cannot write it."""
        key = (row.file, row.line)
        kept = self._kept.get(key)
        if kept is not None:
            ids, mask, text_bytes = kept
            return TokenizedConversation(ids.tolist(), [flag == 1 for flag in mask], text_bytes)
        conversation = self._render(row)
        if len(conversation.ids_T) <= self._room:
            self._room -= len(conversation.ids_T)
            ids, mask = array("i", conversation.ids_T), bytes(conversation.mask_T)
            self._kept[key] = (ids, mask, conversation.text_bytes)
        return conversation

    def _render(self, row: Prompt) -> TokenizedConversation:
        renderer = self._renderer
        ids_T, mask_T = conversation_ids(
            renderer,
            as_at_rollout(row.messages, renderer),
            tools=self._schemas(row),
            last_turn_only=self._last_turn_only,
            **self._options,
        )
        self._require_calls(row.messages, ids_T)
        text = renderer.decode(list(compress(ids_T, mask_T)), skip_special_tokens=True)
        return TokenizedConversation(ids_T, mask_T, len(text.encode()))

    def _require_calls(self, messages: Sequence[Message], ids_T: Sequence[int]) -> None:
        """BridgeError when the template leaves tool calls out, as those without a form for them do."""
        names = {call["function"]["name"] for message in messages for call in message.get("tool_calls") or ()}
        if not names:
            return
        text = self._renderer.decode(ids_T)
        if missing := sorted(name for name in names if name not in text):
            raise BridgeError(
                f"the chat template of {self._renderer.source} does not write the tool call of '{missing[0]}'",
                "use a model whose chat template writes tool calls, or remove them from the row",
            )


def as_at_rollout(messages: Sequence[Message], renderer: Renderer) -> list[Message]:
    """The messages as an episode would hold them: tool results name their tool and cannot end their turn."""
    calls: Sequence[Mapping[str, Any]] = ()
    answered = 0
    result: list[Message] = []
    for message in messages:
        if message["role"] == "assistant":
            calls, answered = message.get("tool_calls") or (), 0
        if message["role"] == "tool":
            message = _tool_result(message, calls, answered, renderer)
            answered += 1
        result.append(message)
    return result


def _tool_result(
    message: Message, calls: Sequence[Mapping[str, Any]], answered: int, renderer: Renderer
) -> Message:
    wanted = message.get("tool_call_id")
    names = [call["function"]["name"] for call in calls if wanted is not None and call.get("id") == wanted]
    names += [call["function"]["name"] for call in calls[answered : answered + 1]]
    named = {"name": names[0], **message} if names else message
    content = message["content"]
    return {**named, "content": renderer.harmless(content)} if isinstance(content, str) else named

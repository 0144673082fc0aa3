"""The ids between two sampled turns, and whole conversations built turn by turn from them.

A conversation is never rendered again once a turn was sampled: templates change earlier turns (Qwen3 drops
their reasoning), and text that is tokenised again may give other ids than those that were sampled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rnow_core.data.renderer import Renderer, Tools
from rnow_core.errors import RnowError
from rnow_core.types import Message

_QUESTION: Message = {"role": "user", "content": "question"}
_EMPTY_THINKING = re.compile(r"\s*<think>\s*</think>\n*")
_CLOSES_THINKING = re.compile(r"\s*</think>\n*")
_OPEN_THINKING = re.compile(r"<think>\s*\Z")
_ENDS_WITH_EMPTY_THINKING = re.compile(r"<think>\s*</think>\s*\Z")


class BridgeError(RnowError):
    """The chat template cannot be continued turn by turn."""


def turn_ids(
    renderer: Renderer,
    new_messages: Sequence[Message],
    *,
    tools: Tools | None = None,
    previous_assistant: Message | None = None,
    **options: Any,
) -> tuple[int, ...]:
    """The ids from right behind a sampled end-of-turn token to the start of the next sampled turn.

    The new messages (all of them: consecutive tool results stand together) are rendered behind a dummy
    question and a dummy reply that is found by a sentinel; what follows its end-of-turn token is returned.
    `previous_assistant` gives the names and ids of the tool calls that tool results answer.

    Raises BridgeError when the sentinel is not found exactly once or no end-of-turn token follows it, and
    TemplateRefused when the template does not take the messages.
    """
    sentinel = _sentinel(new_messages)
    calls = _dummy_calls(new_messages, previous_assistant)
    for reply in _dummy_replies(sentinel, calls):
        text = renderer.render([_QUESTION, reply, *new_messages], tools=tools, **options)
        found = text.count(sentinel)
        if found == 1:
            return _behind_turn(renderer, text, text.index(sentinel))
        if found > 1:
            raise BridgeError(
                f"the chat template of {renderer.source} writes an assistant's text {found} times"
            )
    raise BridgeError(f"the chat template of {renderer.source} does not write an assistant's text")


def conversation_ids(
    renderer: Renderer,
    messages: Sequence[Message],
    *,
    tools: Tools | None = None,
    last_turn_only: bool = False,
    **options: Any,
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """(ids, mask) of a conversation to imitate: the ids as if a student had sampled its assistant turns.

    The mask is True on each assistant turn (`last_turn_only`: the last one) with its reasoning, tool calls and
    end-of-turn token. It is False on everything that the template adds, an empty think block included. Messages
    behind the last assistant turn are left out. Raises BridgeError and TemplateRefused as `turn_ids` does.
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns or turns[0] == 0:
        raise BridgeError("a conversation needs an assistant message with something before it")
    parts = [(renderer.prompt_ids(messages[: turns[0]], tools=tools, **options), False)]
    for turn, following in zip(turns, [*turns[1:], None], strict=True):
        empty_thinking, reply = _reply_ids(renderer, messages[turn], tools, options)
        parts += [(empty_thinking, False), (reply, following is None or not last_turn_only)]
        if following is not None:
            between = messages[turn + 1 : following]
            glue = turn_ids(renderer, between, tools=tools, previous_assistant=messages[turn], **options)
            parts.append((glue, False))
    ids = tuple(i for part, _ in parts for i in part)
    return ids, tuple(trained for part, trained in parts for _ in part)


def _sentinel(messages: Sequence[Message]) -> str:
    """A word that the messages do not contain."""
    known = json.dumps(messages, default=str)
    sentinel = "sentinel"
    while sentinel in known:
        sentinel += "x"
    return sentinel


def _dummy_calls(new_messages: Sequence[Message], previous: Message | None) -> list[dict[str, Any]]:
    """Calls of the same names and ids as those that the tool results answer, without arguments."""
    results = [message for message in new_messages if message["role"] == "tool"]
    if not results:
        return []
    known = (previous or {}).get("tool_calls") or [
        {"id": result.get("tool_call_id", "call"), "function": {"name": result.get("name", "tool")}}
        for result in results
    ]
    return [
        {**call, "type": "function", "function": {"name": call["function"]["name"], "arguments": {}}}
        for call in known
    ]


def _dummy_replies(sentinel: str, calls: list[dict[str, Any]]) -> Iterator[Message]:
    """The sentinel as the reply's text; then, for templates that drop the text beside calls, as an argument.

    There is always some reasoning, because templates that know it write a turn without any differently.
    """
    reply: Message = {"role": "assistant", "reasoning_content": "thought"}
    if not calls:
        yield {**reply, "content": sentinel}
        return
    yield {**reply, "content": sentinel, "tool_calls": calls}
    last = {**calls[-1], "function": {**calls[-1]["function"], "arguments": {"value": sentinel}}}
    yield {**reply, "content": "", "tool_calls": [*calls[:-1], last]}


def _behind_turn(renderer: Renderer, text: str, position: int) -> tuple[int, ...]:
    """The ids behind the first end-of-turn token after a character position."""
    ids, offsets = renderer.encode_with_offsets(text)
    for i, (token, (start, _)) in enumerate(zip(ids, offsets, strict=True)):
        if start > position and token in renderer.stop_ids and token in renderer.special_ids:
            return ids[i + 1 :]
    message = f"the chat template of {renderer.source} writes no end-of-turn token behind an assistant's text"
    raise BridgeError(message, "an end-of-turn token must be a special token of the tokenizer")


def _reply_ids(
    renderer: Renderer, message: Message, tools: Tools | None, options: dict[str, Any]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(the template's empty think block, the reply with its end-of-turn token)."""
    if renderer.end_of_turn_id is None:
        raise BridgeError(f"the chat template of {renderer.source} does not end a reply with a special token")
    header = renderer.render([_QUESTION], tools=tools, **options)
    whole = renderer.render([_QUESTION, message], tools=tools, add_generation_prompt=False, **options)
    rest = _behind_header(renderer, header, whole)
    pattern = _CLOSES_THINKING if _OPEN_THINKING.search(header) else _EMPTY_THINKING
    empty = pattern.match(rest)
    block = empty.group() if empty else ""
    block_ids = _continuation(renderer, header, block) if block else ()
    reply = _continuation(renderer, header + block, rest[len(block) :])
    return block_ids, _up_to_end_of_turn(renderer, reply)


def _behind_header(renderer: Renderer, header: str, whole: str) -> str:
    """What the template writes for an assistant message behind its own generation prompt."""
    if whole.startswith(header):
        return whole[len(header) :]
    bare = _ENDS_WITH_EMPTY_THINKING.sub("", header)
    if whole.startswith(bare) and not whole[len(bare) :].lstrip().startswith("<think>"):
        return whole[len(bare) :]
    if whole.startswith(bare):
        raise BridgeError(
            "an assistant message has reasoning, but thinking is off in this run",
            "remove the reasoning from the data, or rollout.reasoning_mode from config.yml",
        )
    raise BridgeError(
        f"the chat template of {renderer.source} starts an assistant message in another way "
        f"({whole[-60:]!r}) than its generation prompt ({header[-60:]!r})"
    )


def _continuation(renderer: Renderer, before: str, text: str) -> tuple[int, ...]:
    """The ids of `text` behind those of `before`, which stay as they are."""
    fixed, joint = renderer.encode(before), renderer.encode(before + text)
    if joint[: len(fixed)] == fixed:
        return joint[len(fixed) :]
    anchor = renderer.decode([renderer.stop_ids[0]])
    return renderer.encode(anchor + text)[1:]


def _up_to_end_of_turn(renderer: Renderer, ids: tuple[int, ...]) -> tuple[int, ...]:
    ends = [i for i, token in enumerate(ids) if token in renderer.special_ids]
    if not ends or renderer.decode(ids[ends[-1] + 1 :]).strip():
        raise BridgeError(f"the chat template of {renderer.source} writes text behind a reply's last token")
    return ids[: ends[-1] + 1]

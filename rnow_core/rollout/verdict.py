"""Which answers of a teacher are worth training on, and why the others are not."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rnow_core.data.messages import parse_arguments
from rnow_core.models.chat_http import ChatAnswer
from rnow_core.types import Message

Reason = Literal[
    "unfinished",
    "truncated",
    "refused",
    "tool-loop",
    "invalid-json",
    "too-long",
    "error",
    "too-long-for-student",
    "template-refused",
    "low-reward",
    "not-best",
    "duplicate",
    "eval-overlap",
]

SAME_CALLS = 3
"""A call with the same arguments, so often with the same result: the teacher goes round in circles."""

_REFUSAL = re.compile(
    r"^\W*(i'?m |i am )?(very |so |really )?(sorry|afraid|unable to (help|assist|comply))?\W*(but )?"
    r"(i |that i )?(can(no|')?t|cannot|won'?t|am not able to|'?m not able to|am unable to|'?m unable to) "
    r"(\w+ )?(help|assist|comply|fulfil|fulfill|provide that|support|participate|engage|do that)",
    re.IGNORECASE,
)


def as_message(answer: ChatAnswer, taken: int, *, reasoning: bool) -> Message:
    """The teacher's reply in the output's form: text, and calls with an id each and arguments as JSON text.

    taken: calls that came before it in the conversation; they number the ids that the server left out.
    reasoning: keep the teacher's thoughts, as `reasoning_content`.
    """
    told = answer.message
    message: Message = {"role": "assistant", "content": _text(told.get("content"))}
    thoughts = told.get("reasoning_content") or told.get("reasoning")
    if reasoning and isinstance(thoughts, str) and thoughts:
        message["reasoning_content"] = thoughts
    calls = told.get("tool_calls")
    if isinstance(calls, list) and calls:
        ids = [str(call.get("id") or "") if isinstance(call, dict) else "" for call in calls]
        if not all(ids) or len(set(ids)) != len(ids):
            ids = [f"call_{taken + i + 1}" for i in range(len(calls))]
        message["tool_calls"] = [_call(call, name) for call, name in zip(calls, ids, strict=True)]
    return message


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _call(call: Any, name: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    called = {"name": str(function.get("name") or ""), "arguments": arguments.strip() or "{}"}
    return {"id": name, "type": "function", "function": called}


def reply_problem(message: Message, answer: ChatAnswer, *, tools: bool, last: bool) -> Reason | None:
    """Why the conversation cannot go on from this reply or end with it; None when it can.

    tools: whether calls were offered. last: no further reply is allowed.
    """
    calls = message.get("tool_calls") or []
    if answer.finish == "content_filter" or answer.message.get("refusal"):
        return "refused"
    if answer.finish in ("length", "max_tokens"):
        return "truncated"
    if any(parse_arguments(call["function"]["arguments"]) is None for call in calls):
        return "invalid-json"
    if calls:
        return "unfinished" if last or not tools else None
    if not message["content"].strip():
        return "unfinished"
    return "refused" if _REFUSAL.match(message["content"].replace("’", "'")) else None


def is_loop(messages: Sequence[Message]) -> bool:
    """Whether some call of the conversation was made SAME_CALLS times with the same result."""
    made: dict[str, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for message in messages:
        for call in message.get("tool_calls") or ():
            made[call["id"]] = _canonical(call["function"])
        if message["role"] == "tool":
            counts[made.get(message["tool_call_id"], ""), message["content"]] += 1
    return max(counts.values(), default=0) >= SAME_CALLS


def _canonical(function: Mapping[str, Any]) -> str:
    return f"{function['name']} {json.dumps(parse_arguments(function['arguments']), sort_keys=True)}"


def written(messages: Sequence[Message]) -> int:
    """Characters of the replies and of the arguments of their calls."""
    return sum(
        len(message["content"] or "")
        + sum(len(call["function"]["arguments"]) for call in message.get("tool_calls") or ())
        for message in messages
        if message["role"] == "assistant"
    )

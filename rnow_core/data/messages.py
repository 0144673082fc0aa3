"""Checks and normalises the `messages` of a row: roles, content, tool calls and their results, order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from rnow_core.data.row_issues import Code, RowIssues, shown
from rnow_core.types import Message

ROLES = ("system", "user", "assistant", "tool")
_OTHER_NAMES = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
}
_NULL_MEANS_ABSENT = ("tool_calls", "tool_call_id", "name", "reasoning_content")


def parse_arguments(arguments: Any) -> dict[str, Any] | None:
    """A tool call's arguments as an object: parsed when they are a string, None when they are no object."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            return None
    return arguments if isinstance(arguments, dict) else None


def check_messages(issues: RowIssues, value: Any, dataset_type: str) -> tuple[Message, ...]:
    """The messages with null keys dropped and arguments parsed; what is wrong is added to `issues`."""
    if not isinstance(value, list):
        issues.wrong_type("messages", value, "a list of messages")
        return ()
    if not value:
        issues.add(Code.MISSING, "messages", "is empty", "a row needs at least one user message")
        return ()
    before = len(issues.findings)
    messages = tuple(_message(issues, item, f"messages[{i}]") for i, item in enumerate(value))
    if len(issues.findings) == before:
        _check_tool_results(issues, messages)
        _check_order(issues, messages, dataset_type)
    return messages


def _message(issues: RowIssues, item: Any, path: str) -> Message:
    if not isinstance(item, dict):
        issues.wrong_type(path, item, "an object with role and content")
        return {}
    message = {k: v for k, v in item.items() if v is not None or k not in _NULL_MEANS_ABSENT}
    role = _role(issues, message, path)
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(issues, message["tool_calls"], role, f"{path}.tool_calls")
        message.setdefault("content", None)
    _check_content(issues, message, path)
    for key in ("tool_call_id", "name", "reasoning_content"):
        if key in message and not isinstance(message[key], str):
            issues.wrong_type(f"{path}.{key}", message[key], "a string")
    return message


def _role(issues: RowIssues, message: Message, path: str) -> str:
    if "role" not in message:
        issues.add(Code.MISSING, f"{path}.role", "is missing", f"one of {', '.join(ROLES)}")
        return ""
    role = message["role"]
    if not isinstance(role, str):
        issues.wrong_type(f"{path}.role", role, f"one of {', '.join(ROLES)}")
        return ""
    if role not in ROLES:
        close = get_close_matches(role.lower(), ROLES, n=1)
        guess = _OTHER_NAMES.get(role.lower()) or (close[0] if close else None)
        hint = f"use {guess!r}" if guess else ""
        issues.add(Code.ROLE, f"{path}.role", f"unknown role {role!r}, expected {', '.join(ROLES)}", hint)
    return role


def _check_content(issues: RowIssues, message: Message, path: str) -> None:
    path = f"{path}.content"
    if "content" not in message:
        issues.add(Code.MISSING, path, "is missing")
        return
    content = message["content"]
    if isinstance(content, list):
        for i, part in enumerate(content):
            _check_part(issues, part, f"{path}[{i}]")
    elif content is None and not message.get("tool_calls"):
        issues.wrong_type(path, None, "text; null is for an assistant turn with tool_calls")
    elif content is not None and not isinstance(content, str):
        issues.wrong_type(path, content, "a string or a list of text parts")


def _check_part(issues: RowIssues, part: Any, path: str) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        issues.wrong_type(path, part, 'a part such as {"type": "text", "text": "..."}')
    elif part["type"] != "text":
        message = f"parts of type {part['type']!r} are not supported, only text is trained on"
        issues.add(Code.PART, f"{path}.type", message, "keep the text parts, remove the others")
    elif not isinstance(part.get("text"), str):
        issues.wrong_type(f"{path}.text", part.get("text"), "a string")


def _tool_calls(issues: RowIssues, calls: Any, role: str, path: str) -> list[Any]:
    if not isinstance(calls, list):
        issues.wrong_type(path, calls, "a list of tool calls")
        return []
    if calls and role != "assistant":
        issues.add(
            Code.ORDER, path, f"tool_calls on a {role or 'nameless'} message", "only assistants call tools"
        )
    return [_tool_call(issues, call, f"{path}[{i}]") for i, call in enumerate(calls)]


def _tool_call(issues: RowIssues, call: Any, path: str) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        issues.wrong_type(path, call, 'an object with "function": {"name": ..., "arguments": ...}')
        return call
    if not isinstance(function.get("name"), str) or not function["name"]:
        issues.wrong_type(f"{path}.function.name", function.get("name"), "the tool's name")
    if call.get("id") is not None and not isinstance(call["id"], str):
        issues.wrong_type(f"{path}.id", call["id"], "a string")
    arguments = parse_arguments(function.get("arguments"))
    if arguments is None:
        got = f"got {shown(function.get('arguments'))}, expected a JSON object, or a string that holds one"
        issues.add(Code.ARGUMENTS, f"{path}.function.arguments", got)
    kept = {key: value for key, value in call.items() if value is not None}
    return {**kept, "function": {**function, "arguments": arguments}}


def _check_tool_results(issues: RowIssues, messages: Sequence[Mapping[str, Any]]) -> None:
    """A tool message answers the assistant turn before it, by id where both sides give one."""
    calls: list[Mapping[str, Any]] = []
    for i, message in enumerate(messages):
        if message["role"] != "tool":
            calls = message.get("tool_calls") or []
            continue
        ids = [call.get("id") for call in calls]
        wanted = message.get("tool_call_id")
        if not calls:
            issues.add(Code.TOOL_RESULT, f"messages[{i}].role", "a tool result, but no tool call before it")
        elif wanted is not None and None not in ids and wanted not in ids:
            expected = ", ".join(repr(known) for known in ids)
            got = f"got {wanted!r}, the assistant turn before it made {expected}"
            issues.add(Code.TOOL_RESULT, f"messages[{i}].tool_call_id", got)


def _check_order(issues: RowIssues, messages: Sequence[Mapping[str, Any]], dataset_type: str) -> None:
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        issues.add(Code.ORDER, "messages", "there is no user message", "a row needs at least one")
    elif dataset_type == "sft" and "assistant" not in roles:
        hint = "dataset_type sft trains on assistant messages; add one, or use dataset_type distill"
        issues.add(Code.ORDER, "messages", "there is no assistant message to train on", hint)
    elif dataset_type != "sft" and roles[-1] not in ("user", "tool"):
        what = f"the last message is from {roles[-1]!r}, so there is nothing for the student to answer"
        hint = "end the row with a user or tool message; to train on given answers use dataset_type sft"
        issues.add(Code.ORDER, f"messages[{len(roles) - 1}].role", what, hint)

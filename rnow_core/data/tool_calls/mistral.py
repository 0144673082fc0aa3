"""Mistral: `[TOOL_CALLS]` with a list of calls, or (since tokenizer version 11) `[TOOL_CALLS]name[ARGS]{...}`."""

from __future__ import annotations

import re

from rnow_core.data.tool_calls.reasoning import read_blocks
from rnow_core.data.tool_calls.records import Collector, ToolSchemas
from rnow_core.data.tool_calls.strict_json import Malformed, arguments_of, call_of, json_at, skip_space

EXPECTED_LIST = '[TOOL_CALLS] [{"name": "tool_name", "arguments": {"argument": "value"}, "id": "abc123XYZ"}]'
EXPECTED_NAMED = '[TOOL_CALLS]tool_name[ARGS]{"argument": "value"}'
_OPENER = re.compile(r"\[TOOL_CALLS\]")
_NAMED = re.compile(r"([^\[\]{}\s]+)\s*(?:\[CALL_ID\]\s*([^\[\]{}\s]*)\s*)?(?:\[ARGS\])?")


def read(text: str, out: Collector, tools: ToolSchemas | None) -> None:
    """Fill `out` from a reply without its reasoning. Nothing closes a call, so behind a bad one all is its own."""
    read_blocks(text, out, _OPENER, _read_one, "")


def _read_one(text: str, start: re.Match[str], out: Collector) -> int:
    position = skip_space(text, start.end())
    if text.startswith("[", position):
        return _read_list(text, position, out)
    named = _NAMED.match(text, position)
    if named is None:
        raise Malformed("a list of calls or the tool's name is missing behind [TOOL_CALLS]")
    value, end = json_at(text, named.end())
    out.call(named.group(1), arguments_of(value), named.group(2))
    return end


def _read_list(text: str, position: int, out: Collector) -> int:
    """Reads a JSON list of calls; one that is malformed leaves the others as they are."""
    calls, end = json_at(text, position)
    if not calls:
        raise Malformed("the list of calls is empty", resume=end)
    for call in calls:
        try:
            out.call(*call_of(call, ("arguments",)), call.get("id"))
        except Malformed as error:
            out.problem(str(error), text[position : min(end, position + 1000)])
        if out.full:
            break
    return end

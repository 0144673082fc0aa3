"""Hermes and Qwen: `<tool_call>`, one JSON object, `</tool_call>`; several a turn."""

from __future__ import annotations

import re

from rnow_core.data.tool_calls.reasoning import read_blocks
from rnow_core.data.tool_calls.records import Collector, ToolSchemas
from rnow_core.data.tool_calls.strict_json import Malformed, call_of, json_at, skip_space

EXPECTED = '<tool_call>\n{"name": "tool_name", "arguments": {"argument": "value"}}\n</tool_call>'
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_OPENER = re.compile(re.escape(_OPEN))


def read(text: str, out: Collector, tools: ToolSchemas | None) -> None:
    """Fill `out` from a reply without its reasoning. A closing marker inside a JSON string closes nothing."""
    read_blocks(text, out, _OPENER, _read_one, _CLOSE)


def _read_one(text: str, start: re.Match[str], out: Collector) -> int:
    value, end = json_at(text, start.end())
    end = skip_space(text, end)
    if not text.startswith(_CLOSE, end):
        if end == len(text) or text.startswith(_OPEN, end):
            raise Malformed(f"the call is not closed with {_CLOSE}", resume=end)
        raise Malformed(f"text behind the JSON object ({text[end : end + 20]!r}) instead of {_CLOSE}")
    end += len(_CLOSE)
    try:
        out.call(*call_of(value, ("arguments",)))
    except Malformed as error:
        error.resume = end
        raise
    return end

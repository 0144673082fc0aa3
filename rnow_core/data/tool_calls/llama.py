"""Llama 3.1 to 3.3: JSON with "name" and "parameters", bare or behind `<|python_tag|>`, `;` between several."""

from __future__ import annotations

import re

from rnow_core.data.tool_calls.reasoning import read_blocks
from rnow_core.data.tool_calls.records import Collector, ToolSchemas
from rnow_core.data.tool_calls.strict_json import Malformed, call_of, json_at, skip_space

EXPECTED = '{"name": "tool_name", "parameters": {"argument": "value"}}'
_TAG = "<|python_tag|>"
_OPENER = re.compile(re.escape(_TAG))
_LOOKS_LIKE_A_CALL = re.compile(
    r'\s*+\{\s*+(?:"type"\s*+:\s*+"function"\s*+,\s*+)?"(?:name|parameters|arguments)"\s*+:'
)
_KEYS = ("parameters", "arguments")


def read(text: str, out: Collector, tools: ToolSchemas | None) -> None:
    """Fill `out` from a reply without its reasoning.

    Bare JSON is a call only at the beginning of the reply and with both keys: an object in a code fence, or
    one behind a sentence, is an answer.
    """
    if not _LOOKS_LIKE_A_CALL.match(text):
        read_blocks(text, out, _OPENER, lambda text, start, out: _calls(text, start.end(), out), "")
    elif _is_an_answer(text):
        out.text(text)
    else:
        try:
            end = _calls(text, 0, out)
            out.text(text[end:])
        except Malformed as error:
            out.problem(str(error), text[:1000])


def _is_an_answer(text: str) -> bool:
    """A well-formed object with a "name" but nothing for a tool."""
    try:
        value, _ = json_at(text, 0)
    except Malformed:
        return False
    return not any(key in value for key in _KEYS)


def _calls(text: str, position: int, out: Collector) -> int:
    """Reads calls until something else follows; returns its position. Raises Malformed."""
    while True:
        if text.startswith(_TAG, skip_space(text, position)):
            position = skip_space(text, position) + len(_TAG)
        value, position = json_at(text, position)
        out.call(*call_of(value, _KEYS))
        after = skip_space(text, position)
        if text.startswith(";", after):
            position = after + 1
            if skip_space(text, position) == len(text):
                return len(text)
        elif not text.startswith(_TAG, after) and not _LOOKS_LIKE_A_CALL.match(text, after):
            return position

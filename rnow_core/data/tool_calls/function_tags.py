"""Qwen3-Coder and Qwen3.5: `<tool_call><function=NAME><parameter=KEY>value</parameter></function></tool_call>`."""

from __future__ import annotations

import re
from typing import Any

from rnow_core.data.tool_calls.reasoning import read_blocks
from rnow_core.data.tool_calls.records import Collector, ToolSchemas
from rnow_core.data.tool_calls.strict_json import Malformed, skip_space
from rnow_core.data.tool_calls.typed_text import parameter_schemas, typed

EXPECTED = (
    "<tool_call>\n<function=tool_name>\n<parameter=argument>\nvalue\n</parameter>\n</function>\n</tool_call>"
)
_WRAP, _WRAP_END = "<tool_call>", "</tool_call>"
_OPENER = re.compile(r"<tool_call>\s*(?:<function=(?P<wrapped>[^<>\n]*)>)?|<function=(?P<bare>[^<>\n]+)>")
_PARAMETER = re.compile(r"<parameter=([^<>\n]+)>")
_END, _PARAMETER_END = "</function>", "</parameter>"


def read(text: str, out: Collector, tools: ToolSchemas | None) -> None:
    """Fill `out` from a reply without its reasoning. Values get the types that the tools' schemas declare.

    The format cannot escape its own markers: a value with `</parameter>` in it is malformed, not cut.
    """

    def read_one(text: str, start: re.Match[str], out: Collector) -> int:
        try:
            return _read_one(text, start, out, tools)
        except Malformed as error:
            close = _WRAP_END if start.group().startswith(_WRAP) else _END
            found = text.find(close, start.end())
            if error.resume is None and found >= 0:
                error.resume = found + len(close)
            raise

    read_blocks(text, out, _OPENER, read_one, _WRAP_END)


def _read_one(text: str, start: re.Match[str], out: Collector, tools: ToolSchemas | None) -> int:
    name = (start.group("wrapped") or start.group("bare") or "").strip()
    if not name:
        raise Malformed("<function=tool_name> is missing behind <tool_call>")
    values, end = _parameters(text, start.end())
    after = skip_space(text, end)
    if start.group().startswith(_WRAP):
        if not text.startswith(_WRAP_END, after):
            raise Malformed(f"the call is not closed with {_WRAP_END}", resume=end)
        end = after + len(_WRAP_END)
    schemas = parameter_schemas(tools, name)
    out.call(name, {key: typed(value, schemas.get(key)) for key, value in values.items()})
    return end


def _parameters(text: str, position: int) -> tuple[dict[str, Any], int]:
    """(the values as text, the position behind `</function>`)."""
    values: dict[str, Any] = {}
    while True:
        position = skip_space(text, position)
        if text.startswith(_END, position):
            return values, position + len(_END)
        start = _PARAMETER.match(text, position)
        if start is None:
            got = repr(text[position : position + 20]) if position < len(text) else "the end of the reply"
            raise Malformed(f"expected <parameter=name> or {_END}, got {got}")
        key, close = start.group(1).strip(), text.find(_PARAMETER_END, start.end())
        if close < 0:
            raise Malformed(f"<parameter={key}> is not closed with {_PARAMETER_END}")
        if key in values:
            raise Malformed(f"the parameter {key!r} is given twice")
        values[key] = text[start.end() : close].removeprefix("\n").removesuffix("\n")
        position = close + len(_PARAMETER_END)

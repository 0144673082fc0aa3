"""DeepSeek: V3 and R1 write a type, a name and fenced JSON in each call; V3.1 a name and bare JSON."""

from __future__ import annotations

import re

from rnow_core.data.tool_calls.reasoning import read_blocks
from rnow_core.data.tool_calls.records import Collector, ToolSchemas
from rnow_core.data.tool_calls.strict_json import Malformed, arguments_of, json_at, skip_space

_ALL, _ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_ONE, _ONE_END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
EXPECTED_FENCED = (
    f'{_ALL}{_ONE}function{_SEP}tool_name\n```json\n{{"argument": "value"}}\n```{_ONE_END}{_ALL_END}'
)
EXPECTED_BARE = f'{_ALL}{_ONE}tool_name{_SEP}{{"argument": "value"}}{_ONE_END}{_ALL_END}'
_OPENER = re.compile(rf"{_ALL}\s*(?P<inner>{_ONE})?|(?P<single>{_ONE})")
_HEAD = re.compile(rf"\s*+([^<\n]*+){_SEP}")
_FENCED = re.compile(r"\s*+([^\n`{<]*+)\n\s*+```(?:json)?")


def read(text: str, out: Collector, tools: ToolSchemas | None) -> None:
    """Fill `out` from a reply without its reasoning. Each call is closed by itself; the outer end may lack."""
    read_blocks(text, out, _OPENER, _read_one, _ONE_END)


def _read_one(text: str, start: re.Match[str], out: Collector) -> int:
    if not (start.group("inner") or start.group("single")):
        raise Malformed(f"{_ONE} is missing behind {_ALL}")
    head = _HEAD.match(text, start.end())
    if head is None:
        raise Malformed(f"{_SEP} is missing")
    name, fenced = head.group(1).strip(), _FENCED.match(text, head.end())
    if fenced:
        name = fenced.group(1).strip()
    if not name:
        raise Malformed("the tool's name is missing")
    value, end = json_at(text, (fenced or head).end())
    end = skip_space(text, end)
    if fenced and text.startswith("```", end):
        end = skip_space(text, end + 3)
    elif fenced:
        raise Malformed("the fence around the arguments is not closed with ```")
    if not text.startswith(_ONE_END, end):
        raise Malformed(f"text behind the arguments instead of {_ONE_END}")
    end += len(_ONE_END)
    try:
        out.call(name, arguments_of(value))
    except Malformed as error:
        error.resume = _behind_all(text, end)
        raise
    return _behind_all(text, end)


def _behind_all(text: str, end: int) -> int:
    after = skip_space(text, end)
    return after + len(_ALL_END) if text.startswith(_ALL_END, after) else end

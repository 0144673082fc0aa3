"""Reads a reply as the model's tokenizer_config.json describes it: the `response_template` of transformers.

Version 1 of that description: a reply is a row of regions. A field says what opens and closes its region
(`open`, `open_pattern`, `close`, `close_pattern`), how the text in it is read (`content`, `content_args`), and
what is made of that (`transform`). The one field without an opening is what is left over. Regular expressions
are compiled with `re`; a description that needs more than it is refused. The older `response_schema`, which
transformers reads no more, is not supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rnow_core.data.tool_calls.records import Collector, ParsedReply, ToolSchemas
from rnow_core.data.tool_calls.response_content import CONTENT, check_content, filled
from rnow_core.data.tool_calls.strict_json import Malformed, call_of
from rnow_core.data.tool_calls.typed_text import parameter_schemas, typed
from rnow_core.errors import RnowError

_REASONING = ("thinking", "reasoning", "reasoning_content")
_TEMPLATE_KEYS = {"version", "defaults", "fields", "start_anchor", "start_anchor_pattern"}
_FIELD_KEYS = {
    *("open", "open_pattern", "close", "close_pattern", "content", "content_args"),
    *("repeats", "join", "optional", "transform", "transform_each"),
}


@dataclass(frozen=True)
class _Field:
    name: str
    opens: re.Pattern[str] | None
    closes: re.Pattern[str] | None
    content: str
    arguments: Mapping[str, Any]
    transform: Any
    each: bool


@dataclass(frozen=True)
class _Region:
    field: _Field
    body: str
    captures: Mapping[str, str]
    closed: bool


@dataclass(frozen=True)
class ResponseTemplate:
    """A form of tool calls that the model's files describe."""

    anchor: re.Pattern[str]
    fields: tuple[_Field, ...]
    expected: str
    name: str = "response_template"

    @classmethod
    def load(cls, source: str, given: Any, example: str | None) -> ResponseTemplate:
        """Check and compile a description; `example` is a call as the chat template writes it.

        Raises RnowError naming the model and the key at fault.
        """
        try:
            return cls._load(given, example or "the form that the system prompt describes")
        except (re.error, ValueError, TypeError, AttributeError, KeyError) as error:
            message = f"the response_template in tokenizer_config.json of {source} cannot be used: {error}"
            raise RnowError(message, "name another form of tool calls in config.yml") from error

    @classmethod
    def _load(cls, given: Any, expected: str) -> ResponseTemplate:
        if given.get("version", 1) != 1:
            raise ValueError(f"version {given['version']!r}, expected 1")
        if unknown := set(given) - _TEMPLATE_KEYS:
            raise ValueError(f"unknown keys {sorted(unknown)}")
        anchor = _pattern(given, "start_anchor", "start_anchor_pattern")
        fields = tuple(_field(name, field) for name, field in given["fields"].items())
        if anchor is None or "tool_calls" not in given["fields"]:
            raise ValueError("expected a start_anchor and a field tool_calls")
        if sum(field.opens is None for field in fields) > 1:
            raise ValueError("more than one field has no opening")
        return cls(anchor, fields, expected)

    def parse(
        self, text: str, *, prompt: str = "", tools: ToolSchemas | None = None, first_call: int = 0
    ) -> ParsedReply:
        """See `formats.Format.parse`."""
        out, reasoning = Collector(self.expected, first_call), []
        anchors = list(self.anchor.finditer(prompt))
        whole = prompt[anchors[-1].end() :] + text if anchors else text
        for region in self._regions(whole):
            if region.field.name == "tool_calls":
                _add_calls(out, region, tools)
            elif region.field.name in _REASONING:
                reasoning.append(region.body.strip())
            elif region.field.name == "content":
                out.text(region.body)
            if out.full:
                break
        reply = out.reply("\n\n".join(filter(None, reasoning)) or None)
        return ParsedReply(reply.content.strip(), reply.reasoning, reply.calls, reply.problems)

    def _regions(self, text: str) -> Iterator[_Region]:
        """The text cut into regions, in order; leftover text without a field of its own is dropped."""
        leftover = next((field for field in self.fields if field.opens is None), None)
        starts = _Finder(text, [field for field in self.fields if field.opens is not None], leftover)
        position = 0
        while position <= len(text):
            field, found = starts.next(position)
            end = found.start() if found else len(text)
            if leftover and end > position:
                yield _Region(leftover, text[position:end], {}, True)
            if found is None:
                return
            position = max(found.end(), position + (found.end() == position))
            if field is not None:
                closes = field.closes.search(text, found.end()) if field.closes else None
                end, position = closes.span() if closes else (len(text), len(text) + 1)
                yield _Region(field, text[found.end() : end], _captures(found), closes is not None)


class _Finder:
    """The next opening of any field, or the next end of the leftover field; each text is searched once."""

    def __init__(self, text: str, fields: list[_Field], leftover: _Field | None) -> None:
        self._text = text
        self._patterns: list[tuple[_Field | None, re.Pattern[str]]] = [
            (field, field.opens) for field in fields if field.opens is not None
        ]
        if leftover and leftover.closes:
            self._patterns.append((None, leftover.closes))
        self._found: list[re.Match[str] | None] = [p.search(text) for _, p in self._patterns]

    def next(self, position: int) -> tuple[_Field | None, re.Match[str] | None]:
        """(the field that opens, or None for an end; where), earliest and then longest first."""
        best: tuple[_Field | None, re.Match[str] | None] = (None, None)
        for i, (field, pattern) in enumerate(self._patterns):
            found = self._found[i]
            if found is not None and found.start() < position:
                found = self._found[i] = pattern.search(self._text, position)
            if found is not None and (best[1] is None or _rank(found) < _rank(best[1])):
                best = (field, found)
        return best


def _rank(found: re.Match[str]) -> tuple[int, int]:
    return found.start(), -found.end()


def _captures(found: re.Match[str]) -> dict[str, str]:
    return {key: value for key, value in found.groupdict().items() if value is not None}


def _field(name: str, given: Mapping[str, Any]) -> _Field:
    if unknown := set(given) - _FIELD_KEYS:
        raise ValueError(f"unknown keys {sorted(unknown)} in the field {name}")
    content = given.get("content", "text")
    check_content(content, given.get("content_args", {}))
    return _Field(
        name,
        _pattern(given, "open", "open_pattern"),
        _pattern(given, "close", "close_pattern"),
        content,
        given.get("content_args", {}),
        given.get("transform"),
        given.get("transform_each", False),
    )


def _pattern(given: Mapping[str, Any], literal: str, pattern: str) -> re.Pattern[str] | None:
    if pattern in given:
        return re.compile(given[pattern], re.DOTALL)
    if literal not in given:
        return None
    literals = [given[literal]] if isinstance(given[literal], str) else given[literal]
    return re.compile("|".join(re.escape(text) for text in sorted(literals, key=len, reverse=True)))


def _add_calls(out: Collector, region: _Region, tools: ToolSchemas | None) -> None:
    """The calls of one region; a region that is not closed, or not readable, is a problem."""
    try:
        if not region.closed and region.field.closes is not None:
            raise Malformed("the call is not closed")
        value = CONTENT[region.field.content](region.body, region.field.arguments)
        found = filled(value, region.field.transform, region.field.each, region.captures)
        for call in found if isinstance(found, list) else [found]:
            inner = call.get("function", call) if isinstance(call, dict) else call
            name, arguments = call_of(inner, ("arguments", "parameters"))
            schemas = parameter_schemas(tools, name)
            out.call(
                name, {k: typed(v, schemas.get(k)) if isinstance(v, str) else v for k, v in arguments.items()}
            )
    except Malformed as error:
        out.problem(str(error), region.body)

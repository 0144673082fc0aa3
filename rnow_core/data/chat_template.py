"""Renders chat templates: jinja2 in a sandbox, with the functions and extensions that model authors use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rnow_core.data.messages import parse_arguments
from rnow_core.errors import RnowError
from rnow_core.types import Message


class TemplateRefused(RnowError):
    """The chat template cannot render these messages."""


class _GenerationTag(Extension):
    """Renders the body of `{% generation %}` blocks, which some templates put around assistant text."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[Node]:
        """The nodes of the block; the tag itself leaves nothing behind."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as model authors expect it: jinja2's own filter escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """The chat templates of one model; with tools the one called `tool_use` is taken where there is one."""

    def __init__(self, source: str, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        if "default" not in templates:
            found = f" (only {', '.join(sorted(templates))})" if templates else ""
            hint = "use an instruction-tuned model, or put a chat_template.jinja into the folder"
            raise RnowError(f"{source} has no chat template{found}", hint)
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._compiled = {name: self._compile(name, text) for name, text in templates.items()}
        self._text_arguments: dict[str, bool] = {}

    def _compile(self, name: str, text: str) -> jinja2.Template:
        try:
            return _environment().from_string(text)
        except jinja2.TemplateSyntaxError as error:
            place = f"the chat template {name!r} of {self.source}, line {error.lineno}"
            raise RnowError(f"{place}: {error.message}") from error

    def _takes_text(self, name: str) -> bool:
        """True for a template that adds arguments to its text as they are, as DeepSeek's do.

        Given an object it fails, or writes Python's form of it; given JSON it writes that. Some templates
        write calls only where the content is null, others take no null: both are tried.
        """
        if name not in self._text_arguments:
            arguments = {"argument": "value"}
            given_text = [self._probe(name, content, _tojson(arguments)) for content in ("", None)]
            given_object = [self._probe(name, content, arguments) for content in ("", None)]
            self._text_arguments[name] = any(
                as_text is not None
                and _tojson(arguments) in as_text
                and (as_object is None or repr(arguments) in as_object)
                for as_text, as_object in zip(given_text, given_object, strict=True)
            )
        return self._text_arguments[name]

    def _probe(self, name: str, content: str | None, arguments: Any) -> str | None:
        """A small conversation with a tool call, or None when the template fails."""
        function = {"name": "tool_name", "arguments": arguments}
        call = {"id": "call00000", "type": "function", "function": function}
        messages = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": content, "tool_calls": [call]},
        ]
        try:
            return self._compiled[name].render(messages=messages, tools=None, **self._special_tokens)
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError):
            return None

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        options: Mapping[str, Any],
    ) -> str:
        """The conversation as text. Raises TemplateRefused with the template's reason."""
        name = "tool_use" if tools and "tool_use" in self._compiled else "default"
        as_text = any(message.get("tool_calls") for message in messages) and self._takes_text(name)
        try:
            return self._compiled[name].render(
                messages=[_prepared(message, as_text) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **{**self._special_tokens, **options},
            )
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
            message = f"the chat template of {self.source} refuses the messages: {error}"
            raise TemplateRefused(message, _advice(messages, str(error))) from error


def _prepared(message: Message, arguments_as_text: bool) -> Message:
    """A message as templates expect it: content as one string, tool arguments as objects (or as JSON)."""
    prepared = dict(message)
    if isinstance(prepared.get("content"), list):
        prepared["content"] = "".join(part["text"] for part in prepared["content"])
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [_prepared_call(call, arguments_as_text) for call in prepared["tool_calls"]]
    return prepared


def _prepared_call(call: Mapping[str, Any], as_text: bool) -> dict[str, Any]:
    function = call["function"]
    parsed = parse_arguments(function["arguments"])
    if parsed is None:
        return {**call}
    return {**call, "function": {**function, "arguments": _tojson(parsed) if as_text else parsed}}


def _advice(messages: Sequence[Message], reason: str) -> str:
    roles = [message.get("role") for message in messages]
    if "system" in reason.lower() and "system" in roles:
        return "this model has no system role: put that text in front of the first user message"
    if "alternate" in reason.lower():
        return f"the roles are {', '.join(map(str, roles))}: merge neighbours of the same role"
    return ""

"""Which form of tool calls a model was trained on: found by rendering a call and reading it back, or named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rnow_core.data.chat_template import TemplateRefused
from rnow_core.data.renderer import Renderer
from rnow_core.data.tool_calls import deepseek, function_tags, hermes, llama, mistral
from rnow_core.data.tool_calls.reasoning import split_reasoning
from rnow_core.data.tool_calls.records import Collector, ParsedReply, ToolSchemas
from rnow_core.data.tool_calls.response_template import ResponseTemplate
from rnow_core.errors import RnowError
from rnow_core.types import Message

FROM_MODEL = "response_template"
"""The name of the form that a model's tokenizer_config.json describes itself."""
_NAME, _ARGUMENTS = "tool_name", {"argument": "value"}
_QUESTION: Message = {"role": "user", "content": "question"}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A tool",
        "parameters": {"type": "object", "properties": {"argument": {"type": "string"}}},
    },
}
_THINKING = re.compile(r"<think>\s*(</think>\s*)?\Z")


class FormatError(RnowError):
    """The model's tool calls cannot be read, or its template does not show it the tools."""


class Format(Protocol):
    """One form of tool calls."""

    @property
    def name(self) -> str:
        """The form's name in config.yml."""

    def parse(
        self, text: str, *, prompt: str = "", tools: ToolSchemas | None = None, first_call: int = 0
    ) -> ParsedReply:
        """The parts of a sampled turn, decoded with its special tokens, without the final end-of-turn token.

        `prompt` is the text that the turn continues (its last part, such as the glue before it, is enough):
        it may have opened the reasoning. `tools` gives types to forms that write values as bare text.
        `first_call` is the number of calls and problems earlier in the conversation, so that counted ids stay unique.
        Never raises for any text.
        """


@dataclass(frozen=True)
class MarkerFormat:
    """A form that is known here; `expected` is the example that the model is shown after a malformed call."""

    name: str
    expected: str
    read: Callable[[str, Collector, ToolSchemas | None], None]

    def parse(
        self, text: str, *, prompt: str = "", tools: ToolSchemas | None = None, first_call: int = 0
    ) -> ParsedReply:
        """See `Format.parse`."""
        reasoning, rest = split_reasoning(text, prompt)
        out = Collector(self.expected, first_call)
        self.read(rest, out, tools)
        return out.reply(reasoning)


_KNOWN = {
    form.name: form
    for form in (
        MarkerFormat("hermes", hermes.EXPECTED, hermes.read),
        MarkerFormat("qwen3_coder", function_tags.EXPECTED, function_tags.read),
        MarkerFormat("llama3_json", llama.EXPECTED, llama.read),
        MarkerFormat("mistral", mistral.EXPECTED_LIST, mistral.read),
        MarkerFormat("deepseek", deepseek.EXPECTED_FENCED, deepseek.read),
    )
}
FORMAT_NAMES = (*_KNOWN, FROM_MODEL)


def detect_format(renderer: Renderer) -> Format:
    """The form whose parser reads back a call that the model's own chat template wrote.

    A model that no known form fits is read as its tokenizer_config.json says, if it has a response_template.
    Raises FormatError when the template does not list tools, or writes calls in an unknown way.
    """
    if not _lists_tools(renderer):
        message = f"the chat template of {renderer.source} does not show the model its tools"
        raise FormatError(message, "use a model with tool support, or give it a chat_template.jinja that has")
    example = _rendered_call(renderer)
    for form in _KNOWN.values():
        if example is not None and _reads(form, example):
            return replace(form, expected=example)
    if renderer.response_template is not None:
        return ResponseTemplate.load(renderer.source, renderer.response_template, _rendered_call(renderer))
    got = "it does not write tool calls" if example is None else f"it writes {example[:200]!r}"
    message = f"the chat template of {renderer.source} takes tools, but no parser reads its calls: {got}"
    raise FormatError(message, f"name the form in config.yml, one of {', '.join(FORMAT_NAMES)}")


def named_format(name: str, renderer: Renderer) -> Format:
    """The form of that name, whatever the template looks like. Raises FormatError."""
    if name == FROM_MODEL:
        if renderer.response_template is None:
            message = f"{renderer.source} has no response_template in its tokenizer_config.json"
            raise FormatError(message, f"name one of {', '.join(_KNOWN)}")
        return ResponseTemplate.load(renderer.source, renderer.response_template, _rendered_call(renderer))
    if name not in _KNOWN:
        raise FormatError(f"unknown form of tool calls {name!r}", f"one of {', '.join(FORMAT_NAMES)}")
    example = _rendered_call(renderer)
    fits = example is not None and _reads(_KNOWN[name], example)
    return replace(_KNOWN[name], expected=example) if example and fits else _KNOWN[name]


def _reads(form: MarkerFormat, example: str) -> bool:
    reply = form.parse(example, tools=[_TOOL])
    calls = [(call.name, call.arguments) for call in reply.calls]
    return calls == [(_NAME, _ARGUMENTS)] and not reply.content and not reply.problems


def _lists_tools(renderer: Renderer) -> bool:
    try:
        return _NAME in renderer.render([_QUESTION], tools=[_TOOL])
    except TemplateRefused:
        return False


def _rendered_call(renderer: Renderer) -> str | None:
    """What the template writes for a call, without reasoning and end of turn; None when it writes none.

    Some templates write calls only where the content is null.
    """
    call = {"id": "abc123XYZ", "type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
    for content in ("", None):
        message = {"role": "assistant", "content": content, "tool_calls": [call]}
        try:
            header = renderer.render([_QUESTION], tools=[_TOOL])
            whole = renderer.render([_QUESTION, message], tools=[_TOOL], add_generation_prompt=False)
        except TemplateRefused:
            continue
        base = _THINKING.sub("", header)
        same = next((i for i, (a, b) in enumerate(zip(base, whole, strict=False)) if a != b), len(base))
        text = _without_end(renderer, whole[same:])
        if _NAME in text:
            return split_reasoning(text, "")[1].strip()
    return None


def _without_end(renderer: Renderer, text: str) -> str:
    text = text.rstrip()
    for stop in renderer.stop_ids:
        text = text.removesuffix(renderer.decode([stop]))
    return text

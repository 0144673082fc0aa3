"""What only the teacher sees: a text in front of a row's prompt, as written or made from the row's fields."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rnow_core.errors import RnowError
from rnow_core.types import Message, Prompt

Role = Literal["user", "system"]

_TAGS = ("{{", "{%", "{#")
_CODE = "<context>"
_RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class ContextError(RnowError):
    """A context that cannot be read or rendered.

    `reason` leaves out the row where `message` names one; `line` is the template's line, where it has one.
    """

    def __init__(self, reason: str, hint: str = "", *, line: int | None = None, row: str = "") -> None:
        super().__init__(f"teacher context: {reason}" + (f" (row {row})" if row else ""), hint)
        self.reason, self.line = reason, line


@dataclass(frozen=True)
class TeacherContext:
    """A teacher's context. `text` is None where only rows bring one; `role` is the message that it stands in front of.

    A text without `{{`, `{%` or `{#` is taken byte for byte. Any other is a jinja2 template over the row's fields, in a
    sandbox, in which an unknown name or a null is an error.
    """

    text: str | None = None
    role: Role = "user"

    def of(self, prompt: Prompt) -> str:
        """The row's context: its own `teacher_context` as written, or else this one; "" for none.

        Raises:
            ContextError: the template is broken, or asks for something that the row does not have.
        """
        if prompt.teacher_context is not None:
            return prompt.teacher_context
        if self.text is None or not self.is_template:
            return self.text or ""
        names = row_fields(prompt)
        try:
            return self._template.render(names)
        except _RENDER_ERRORS as error:
            hint, row = f"the row has: {_known(names)}", f"{prompt.file}:{prompt.line}"
            raise ContextError(_reason(error), hint, line=_line(error), row=row) from error

    def in_front_of(self, prompt: Prompt) -> Prompt:
        """The row as the teacher sees it: the same object when it has no context.

        Raises:
            ContextError: as `of`.
        """
        context = self.of(prompt)
        if not context:
            return prompt
        return replace(prompt, messages=with_context(prompt.messages, context, self.role))

    @property
    def is_template(self) -> bool:
        """Whether the text has anything for jinja2 in it."""
        return self.text is not None and any(tag in self.text for tag in _TAGS)

    @cached_property
    def _template(self) -> jinja2.Template:
        text = self.text or ""
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            newline_sequence="\r\n" if "\r\n" in text else "\n",
            finalize=_no_null,
        )
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        try:
            code = environment.compile(text, filename=_CODE)
        except jinja2.TemplateSyntaxError as error:
            hint = (
                "write braces that are no template as {{ '{{' }}, or put them into {% raw %} ... {% endraw %}"
            )
            raise ContextError(f"not a valid template: {error.message}", hint, line=error.lineno) from error
        return jinja2.Template.from_code(environment, code, environment.make_globals(None))


def load_context(text: str | None, file: str | None, role: Role, root: Path) -> TeacherContext:
    """A context from the config's text, or from a file (relative ones start from `root`), newlines as they are.

    Raises:
        ContextError: the file cannot be read, is not UTF-8, or is empty.
    """
    if file is None:
        return TeacherContext(text, role)
    try:
        content = (root / Path(file).expanduser()).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ContextError(f"the file cannot be read: {error.strerror}", "name a text file") from error
    except UnicodeDecodeError as error:
        raise ContextError(
            f"not UTF-8: byte 0x{error.object[error.start]:02x}", "save it as UTF-8"
        ) from error
    if not content:
        raise ContextError("the file is empty", "write the context into it, or remove teacher.context_file")
    return TeacherContext(content, role)


def row_fields(prompt: Prompt) -> dict[str, Any]:
    """What a template may use: every key of the row, those that rnow does not know included. Keys without a value and
    empty ones that the row did not write are left out, except `metadata` and `variables`.
    """
    fields: dict[str, Any] = {
        **prompt.extra,
        "messages": list(prompt.messages),
        "metadata": prompt.metadata,
        "variables": prompt.variables,
    }
    optional = {
        "rewards": list(prompt.rewards),
        "tools": list(prompt.tools or ()),
        "docker": prompt.docker,
        "docker_env": prompt.docker_env,
        "teacher": prompt.teacher,
        "env": prompt.env,
    }
    return fields | {name: value for name, value in optional.items() if value}


def with_context(messages: Sequence[Message], context: str, role: Role) -> tuple[Message, ...]:
    """The messages with `context` in front of the first message of `role`, nothing between them.

    Without a system message there is a new one, in front of all others.
    """
    place = next((i for i, message in enumerate(messages) if message["role"] == role), None)
    if place is None:
        return ({"role": role, "content": context}, *messages)
    message = messages[place]
    content = message["content"]
    joined = [{"type": "text", "text": context}, *content] if isinstance(content, list) else context + content
    return (*messages[:place], {**message, "content": joined}, *messages[place + 1 :])


def behind_context(prompt: Prompt, role: Role) -> str:
    """The text that follows the context directly: that of the first message of `role`, "" where there is none."""
    content = next((message["content"] for message in prompt.messages if message["role"] == role), "")
    return "".join(part["text"] for part in content) if isinstance(content, list) else content


def _no_null(value: Any) -> Any:
    if value is None:
        raise jinja2.TemplateRuntimeError("a null would be written as 'None'")
    return value


def _reason(error: Exception) -> str:
    """What jinja2 says, in the words of a row."""
    said = str(error) or type(error).__name__
    return said.replace("'dict object' has no attribute", "there is no")


def _known(names: Mapping[str, Any]) -> str:
    """The names of a row, objects with their keys in brackets."""
    return ", ".join(
        f"{name} ({', '.join(map(str, value))})" if isinstance(value, Mapping) and value else name
        for name, value in sorted(names.items())
    )


def _line(error: Exception) -> int | None:
    """The template's line that an error came from; jinja2 puts it into the traceback."""
    lines = [trace.tb_lineno for trace in _frames(error.__traceback__) if _is_template(trace)]
    return lines[-1] if lines else None


def _frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_template(trace: TracebackType) -> bool:
    return trace.tb_frame.f_code.co_filename == _CODE

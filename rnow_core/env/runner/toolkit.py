"""`@tool`: how a project's tools.py says what the student may call.

    from rnow import tool, ToolArgs

    @tool(sandbox=True, timeout=30)
    def browse(url: str, args: ToolArgs) -> str:
        \"\"\"Browse a page and return its text.

Args:
            url: The address, with https://.
        \"\"\"

The JSON schema comes from the type hints and the docstring; a parameter of type ToolArgs is given by rnow and
not shown to the model. A function is only noted here and described when its file is loaded, so that hints may
name what stands below it.

Python 3.8, standard library only: this file also runs inside sandboxes.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .docstring import parse_docstring
from .hints import BadHint, evaluate, members, strip
from .schema import object_schema, property_of
from .values import Mismatch, convert

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F", bound="Callable[..., Any]")
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class ToolArgs:
    """What a tool knows besides its arguments: the row's `metadata` and `variables`, and the secrets that the
    config names.
    """

    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    secrets: Mapping[str, str] = dataclasses.field(default_factory=dict)


class ToolDefinitionError(Exception):
    """A function that cannot be a tool; `file` as Python knows it, `hint` the fix."""

    def __init__(self, name: str, file: str, line: int, problem: str, hint: str) -> None:
        super().__init__(f"{file}:{line}: @tool on `{name}`: {problem} ({hint})")
        self.problem = f"@tool on `{name}`: {problem}"
        self.file = file
        self.line = line
        self.hint = hint


class Tool:
    """A function that `@tool` noted. Nothing is known of its hints before `describe`."""

    def __init__(
        self, function: Callable[..., Any], sandbox: bool, timeout: float | None, network: bool
    ) -> None:
        code = inspect.unwrap(function).__code__
        self.function = function
        self.name: str = function.__name__
        self.file: str = code.co_filename
        self.line: int = code.co_firstlineno
        self.sandbox = sandbox
        self.timeout = timeout
        self.network = network
        self.hints: dict[str, Any] = {}
        self.injected: list[str] = []

    def describe(self) -> dict[str, Any]:
        """The tool as JSON: name, description, parameters (a schema), options and place.

        Raises ToolDefinitionError.
        """
        self._check()
        self.hints, self.injected = {}, []
        about, texts = parse_docstring(self.function.__doc__)
        if not about:
            raise self.problem(
                "it has no description", "say in its docstring what it does: the model reads it"
            )
        properties, required = {}, []
        for name, parameter in inspect.signature(self.function).parameters.items():
            if self._is_injected(parameter):
                continue
            default = dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
            properties[name] = self._property(parameter, texts.get(name, ""), default)
            if default is dataclasses.MISSING:
                required.append(name)
        return {
            "name": self.name,
            "description": about,
            "parameters": object_schema(properties, required),
            "sandbox": self.sandbox,
            "timeout": self.timeout,
            "network": self.network,
            "is_async": inspect.iscoroutinefunction(inspect.unwrap(self.function)),
            "file": self.file,
            "line": self.line,
        }

    def bind(self, arguments: Mapping[str, Any], context: ToolArgs) -> dict[str, Any]:
        """The keyword arguments of a call. Raises Mismatch with a message for the model."""
        parameters = inspect.signature(self.function).parameters
        for name in arguments:
            if name not in self.hints:
                close = difflib.get_close_matches(name, list(self.hints), 1)
                meant = f"; did you mean `{close[0]}`?" if close else ""
                raise Mismatch(f"there is no parameter `{name}`{meant}")
        made: dict[str, Any] = dict.fromkeys(self.injected, context)
        for name, hint in self.hints.items():
            default = parameters[name].default
            if name not in arguments:
                if default is inspect.Parameter.empty:
                    raise Mismatch(f"the parameter `{name}` is missing")
            elif arguments[name] is None and default is None:
                made[name] = None
            else:
                made[name] = convert(hint, arguments[name], name)
        return made

    def problem(self, problem: str, hint: str) -> ToolDefinitionError:
        """What is wrong with the definition, and the fix."""
        return ToolDefinitionError(self.name, self.file, self.line, problem, hint)

    def _check(self) -> None:
        function = inspect.unwrap(self.function)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise self.problem("it yields", "return one value instead")
        if not is_timeout(self.timeout):
            raise self.problem(
                f"timeout is {self.timeout!r}", "give a number of seconds above 0, or leave it out"
            )
        if not self.network and not self.sandbox:
            raise self.problem("network=False without sandbox=True", "only a sandbox can close the network")

    def _is_injected(self, parameter: inspect.Parameter) -> bool:
        """Check one parameter and note its type; True for the one that rnow fills in."""
        name, hint = parameter.name, parameter.annotation
        if parameter.kind in _VARIADIC:
            raise self.problem(
                f"the model cannot fill `{parameter}`", "give every parameter a name and a type hint"
            )
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise self.problem(f"`{name}` is positional-only", "remove the `/`: arguments come by name")
        if name in ("self", "cls") and hint is parameter.empty:
            raise self.problem("it is a method", "move it out of its class")
        bare = hint is parameter.empty
        if bare and name != "args":
            raise self.problem(f"`{name}` has no type hint", f"write `{name}: str`, or what it is")
        kind = ToolArgs if bare else self._evaluate(name, hint)
        if kind is ToolArgs or ToolArgs in members(kind):
            self.injected.append(name)
            return True
        self.hints[name] = kind
        return False

    def _evaluate(self, name: str, hint: Any) -> Any:
        try:
            return strip_outer(evaluate(hint, inspect.unwrap(self.function).__globals__))
        except Exception as error:
            fix = old_python_fix(error) or "import or define what the hint names"
            problem = f"the hint of `{name}`, `{hint}`, raised {type(error).__name__}: {error}"
            raise self.problem(problem, fix) from error

    def _property(self, parameter: inspect.Parameter, text: str, default: Any) -> dict[str, Any]:
        name = parameter.name
        try:
            return property_of(self.hints[name], text, default)
        except BadHint as error:
            raise self.problem(f"`{name}`: {error}", error.fix) from error
        except Exception as error:  # hints of a dataclass's fields are evaluated late
            fix = old_python_fix(error) or "import or define what the hints of its fields name"
            problem = f"the type of `{name}` raised {type(error).__name__}: {error}"
            raise self.problem(problem, fix) from error


TOOLS: list[Tool] = []
"""Every tool of this process, in order of definition."""


@overload
def tool(function: F, /) -> F: ...
@overload
def tool(
    *, sandbox: bool = False, timeout: float | None = None, network: bool = True
) -> Callable[[F], F]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    sandbox: bool = False,
    timeout: float | None = None,
    network: bool = True,
) -> Any:
    """Make a function, sync or async, callable by the model under its name. The function is returned unchanged.

    sandbox: run it in the row's container. timeout: seconds for one call, instead of `rollout.tool_timeout`.
    network: False closes the sandbox's network. It returns text, or anything that JSON can say.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        if not inspect.isfunction(function):
            shown = getattr(function, "__name__", repr(function))
            raise TypeError(f"@tool expects a function, got {type(function).__name__} {shown}")
        new = Tool(function, sandbox, timeout, network)
        TOOLS[:] = [known for known in TOOLS if (known.file, known.line) != (new.file, new.line)]
        TOOLS.append(new)
        return function

    return register if function is None else register(function)


def describe_tools() -> tuple[list[dict[str, Any]], list[ToolDefinitionError]]:
    """Every tool of this process as JSON, and what is wrong with those that cannot be one."""
    found: dict[str, Tool] = {}
    described, problems = [], []
    for known in TOOLS:
        try:
            first = found.setdefault(known.name, known)
            if first is not known:
                where = f"{first.file}:{first.line}"
                raise known.problem(f"a tool of this name exists at {where}", "give one of them another name")
            described.append(known.describe())
        except ToolDefinitionError as error:
            problems.append(error)
    return described, problems


def is_timeout(value: Any) -> bool:
    """Whether it is None or a number of seconds above 0."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0)


def strip_outer(hint: Any) -> Any:
    """The hint, without Annotated around ToolArgs; every other stays as written, for its note."""
    inner = strip(hint)[0]
    return inner if inner is ToolArgs else hint


def old_python_fix(error: BaseException) -> str:
    """What to write instead of newer syntax, where this Python is too old for it; else ""."""
    text, version = str(error), sys.version_info
    if version < (3, 10) and "unsupported operand type(s) for |" in text:
        return f"this is Python {version[0]}.{version[1]}: write Optional[...] or Union[...] from typing"
    if version < (3, 9) and "is not subscriptable" in text:
        return f"this is Python {version[0]}.{version[1]}: write List[...] or Dict[...] from typing"
    return ""

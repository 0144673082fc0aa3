"""Schemas from hints and docstrings, and arguments on their way into a call."""

# The older spellings are what is tested.
# ruff: noqa: UP006, UP007, UP035, UP045
import dataclasses
import enum
from collections.abc import Sequence
from typing import Annotated, Any, Dict, List, Literal, NewType, Optional, Tuple, TypedDict, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnow_core.env.runner.docstring import parse_docstring
from rnow_core.env.runner.hints import BadHint
from rnow_core.env.runner.schema import schema_of
from rnow_core.env.runner.toolkit import Tool, ToolArgs
from rnow_core.env.runner.values import Mismatch, convert, to_json
from rnow_core.env.tool_arguments import ArgumentCheck


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Shape(enum.Enum):
    DOT = object()


@dataclasses.dataclass
class Point:
    """A place.

    Attributes:
        x: To the right.
    """

    x: int
    y: float = 0.5
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Path:
    points: "list[Point]"
    color: Color | None = None


@dataclasses.dataclass
class Node:
    inner: "Node | None" = None


class Options(TypedDict, total=False):
    depth: int


POINT = {
    "type": "object",
    "description": "A place.",
    "properties": {
        "x": {"type": "integer", "description": "To the right."},
        "y": {"type": "number", "default": 0.5},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["x"],
    "additionalProperties": False,
}
STRINGS = {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (Any, {}),
        (str | None, {"type": ["string", "null"]}),
        (Optional[str], {"type": ["string", "null"]}),
        (int | str, {"type": ["integer", "string"]}),
        (Union[int, str, None], {"type": ["integer", "string", "null"]}),
        (list[str] | None, {"type": ["array", "null"], "items": {"type": "string"}}),
        (list[str] | int, {"anyOf": [STRINGS, {"type": "integer"}]}),
        (list[str] | int | None, {"anyOf": [STRINGS, {"type": "integer"}, {"type": "null"}]}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal[1, 2], {"type": "integer", "enum": [1, 2]}),
        (Literal["a", 1], {"type": ["string", "integer"], "enum": ["a", 1]}),
        (Literal["a"] | None, {"type": ["string", "null"], "enum": ["a", None]}),
        (Color, {"type": "string", "enum": ["red", "blue"]}),
        (Shape, {"type": "string", "enum": ["DOT"]}),
        (list, {"type": "array"}),
        (List, {"type": "array"}),
        (List[str], STRINGS),
        (Sequence[str], STRINGS),
        (set[int], {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}),
        (dict, {"type": "object", "additionalProperties": True}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Dict[str, Any], {"type": "object", "additionalProperties": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            Tuple[int, str],
            {
                "type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2,
                "maxItems": 2,
            },
        ),
        (NewType("Id", str), {"type": "string"}),
        (Annotated[int, "how many"], {"type": "integer", "description": "how many"}),
        (Point, POINT),
        (list[Point], {"type": "array", "items": POINT}),
        (
            Options,
            {
                "type": "object",
                "properties": {"depth": {"type": "integer"}},
                "required": [],
                "additionalProperties": False,
            },
        ),
    ],
    ids=str,
)
def test_schema_of_a_hint(hint, schema):
    assert schema_of(hint) == schema


@pytest.mark.parametrize(
    ("hint", "problem"),
    [
        (bytes, "no JSON form"),
        (dict[int, str], "keys of type int"),
        (object(), "no JSON form"),
        (Node, "itself"),
    ],
)
def test_hints_without_a_json_form(hint, problem):
    with pytest.raises(BadHint, match=problem) as caught:
        schema_of(hint)
    assert caught.value.fix


def described(function, **options):
    return Tool(function, **{"sandbox": False, "timeout": None, "network": True, **options}).describe()


def test_a_whole_tool():
    def search(query: str, args: ToolArgs, limit: int = 5, color: Color = Color.RED, since: str = None):  # noqa: RUF013
        """Search the archive.

        Only titles are read.

        Args:
            query (str): What to look for,
                in plain words.
            limit: How many: at most 10.

        Returns:
            One title a line.
        """

    assert described(search) | {"file": "", "line": 0} == {
        "name": "search",
        "description": "Search the archive.\n\nOnly titles are read.\n\nReturns:\n    One title a line.",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to look for, in plain words."},
                "limit": {"type": "integer", "description": "How many: at most 10.", "default": 5},
                "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                "since": {"type": ["string", "null"], "default": None},
            },
            "required": ["query"],
            "additionalProperties": False,
        },
        "sandbox": False,
        "timeout": None,
        "network": True,
        "is_async": False,
        "file": "",
        "line": 0,
    }


def test_tool_args_are_found_by_type_and_a_bare_args_by_name():
    def typed(a: ToolArgs, b: "ToolArgs | None" = None):
        "Do."

    def bare(args, x: int):
        "Do."

    def own(args: dict[str, int]):
        "Do."

    assert described(typed)["parameters"]["properties"] == {}
    assert list(described(bare)["parameters"]["properties"]) == ["x"]
    assert list(described(own)["parameters"]["properties"]) == ["args"]


def test_a_default_that_json_cannot_say_is_left_out_but_optional():
    def f(x: Any = object(), y: float = float("inf")):  # noqa: B008
        "Do."

    parameters = described(f)["parameters"]
    assert parameters["properties"] == {"x": {}, "y": {"type": "number"}}
    assert parameters["required"] == []


NUMPY = """Find it.

    Parameters
    ----------
    a, b : int
        Two numbers
        to add.
    c : {"x", "y"}, optional
        A letter.

    Returns
    -------
    int
        The sum.
    """


SPHINX = "Do.\n\n:param x: the x\n:param int y: the y\n    goes on\n:returns: z"
GOOGLE = "Do.\n\nArguments:\n  x (Optional[Dict[str, int]], optional): the x\n\n  y:\n    deep\n"
ADDRESS = "Do.\n\nArgs:\n    x: http://a:b is fine\n\nNote: stays."
PROSE = "Parameters of life.\n\nArgs are nice: yes."
SUM = "Two numbers to add."


@pytest.mark.parametrize(
    ("text", "about", "found"),
    [
        (NUMPY, "Find it.\n\nReturns\n-------\nint\n    The sum.", {"a": SUM, "b": SUM, "c": "A letter."}),
        (SPHINX, "Do.\n\n:returns: z", {"x": "the x", "y": "the y goes on"}),
        (GOOGLE, "Do.", {"x": "the x", "y": "deep"}),
        (ADDRESS, "Do.\n\nNote: stays.", {"x": "http://a:b is fine"}),
        (PROSE, PROSE, {}),
        ("", "", {}),
    ],
)
def test_docstrings(text, about, found):
    assert parse_docstring(text) == (about, found)


@pytest.mark.parametrize(
    ("hint", "value", "made"),
    [
        (int, 3.0, 3),
        (float, 3, 3.0),
        (Color, "blue", Color.BLUE),
        (list[Color] | None, ["red"], [Color.RED]),
        (Union[float, int], 3, 3),
        (Union[Color, str], "green", "green"),
        (Point, {"x": 1.0}, Point(1, 0.5, [])),
        (
            Path,
            {"points": [{"x": 1, "tags": ["a"]}], "color": "red"},
            Path([Point(1, 0.5, ["a"])], Color.RED),
        ),
        (tuple[int, Color], [1, "red"], (1, Color.RED)),
        (set[str], ["a", "a"], {"a"}),
        (dict[str, Point], {"a": {"x": 1}}, {"a": Point(1)}),
    ],
)
def test_arguments_become_what_the_hint_says(hint, value, made):
    got = convert(hint, value, "p")
    assert got == made
    assert type(got) is type(made)


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (int, 3.5, "`p` is 3.5"),
        (int, True, "`p` is true"),
        (str, 3, "`p` is 3"),
        (Literal[1], True, "`p` is true"),
        (Color, "green", 'expected one of "red", "blue"'),
        (Path, {"points": [{"x": "1"}]}, '`p.points[0].x` is "1"'),
        (tuple[int, int], [1], "has 1 items, expected 2"),
    ],
)
def test_arguments_that_do_not_fit(hint, value, message):
    with pytest.raises(Mismatch) as caught:
        convert(hint, value, "p")
    assert message in str(caught.value)


LEAVES = st.sampled_from([str, int, float, bool, Color, Literal["a", 2], Point, Path, Any])
HINTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda t: list[t]),
        inner.map(lambda t: dict[str, t]),
        inner.map(lambda t: Optional[t]),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),
        st.tuples(inner, inner).map(lambda pair: Union[pair]),
    ),
    max_leaves=4,
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "red", "x"]), st.text(max_size=3),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["x", "y", "tags", "points", "color"]), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(HINTS, VALUES)
def test_the_schema_and_the_conversion_accept_the_same(hint, value):
    """What the host lets through is what the runner can convert, and the other way round; and what was
    converted goes back to a value of the same schema.
    """
    parameters = {"type": "object", "properties": {"p": schema_of(hint)}}
    check = ArgumentCheck("t", parameters)
    problem = check.problem({"p": value})
    try:
        made = convert(hint, value, "p")
    except Mismatch:
        assert problem
        return
    assert problem == ""
    assert check.problem({"p": to_json(made)}) == ""

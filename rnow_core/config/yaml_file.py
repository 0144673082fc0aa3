"""YAML text -> plain data, and where in the text every key and value stands.

YAML 1.2: `1e-4` is a float, `on` a string, `010` ten. Duplicate keys, tags and aliases that contain
themselves are faults, not surprises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from rnow_core.config.problems import KeyPath

CORE = "tag:yaml.org,2002:"
PLAIN_SCALARS = {f"{CORE}{name}" for name in ("null", "bool", "int", "float")}
OTHER_TAGS = {f"{CORE}{name}" for name in ("str", "map", "seq", "timestamp", "merge", "value")}


@dataclass(frozen=True, slots=True)
class Place:
    """A key and its value in the text; lines and columns from 1. For a list item both are the item's."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the text itself."""

    code: str
    line: int
    col: int
    message: str
    hint: str = ""
    path: KeyPath = ()


@dataclass(slots=True)
class YamlFile:
    """The data of a text (None where nothing was read), the place of every path in it, and its faults."""

    data: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def parse(text: str) -> YamlFile:
    """Read a text. Never raises: what is wrong with it is in `faults`."""
    yaml = YAML(typ="safe", pure=True)
    parsed = YamlFile()
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        parsed.faults.append(_syntax_fault(error))
    except ReaderError as error:
        before = text[: error.position].split("\n")
        message = f"not valid YAML: the character U+{ord(text[error.position]):04X} cannot stand here"
        parsed.faults.append(Fault("RN104", len(before), len(before[-1]) + 1, message, "remove it"))
    else:
        if root is not None:
            parsed.data = _Reader(yaml, parsed).read(root, (), frozenset())
    return parsed


def _syntax_fault(error: MarkedYAMLError) -> Fault:
    mark = error.problem_mark or error.context_mark
    line, col = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return Fault("RN104", line, col, "a tab where YAML wants spaces", "indent with spaces")
    if "mapping values are not allowed" in problem:
        hint = "check the indentation, and quote a text that contains a colon and a space"
        return Fault("RN104", line, col, "a second `key: value` where none can stand", hint)
    return Fault("RN104", line, col, f"not valid YAML: {problem}")


def _start(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _Reader:
    """Walks the composed nodes once; the text's own library keeps no positions of plain values."""

    def __init__(self, yaml: YAML, parsed: YamlFile) -> None:
        self.constructor = yaml.constructor
        self.parsed = parsed

    def read(self, node: Node, path: KeyPath, above: frozenset[int]) -> Any:
        """The plain value of a node; `above` holds the nodes around it, to notice an alias of one of them."""
        if id(node) in above:
            return self.fault(node, path, "RN104", "an alias inside the value that it stands for")
        if node.tag not in PLAIN_SCALARS | OTHER_TAGS:
            self.fault(node, path, "RN104", f"the tag {node.tag} has no meaning here", "remove the tag")
        inner = above | {id(node)}
        if isinstance(node, MappingNode):
            return self.mapping(node, path, inner)
        if isinstance(node, SequenceNode):
            return [self.item(child, (*path, index), inner) for index, child in enumerate(node.value)]
        return self.scalar(node)

    def item(self, node: Node, path: KeyPath, above: frozenset[int]) -> Any:
        """One element of a list."""
        self.parsed.places[path] = Place(_start(node), _start(node))
        return self.read(node, path, above)

    def mapping(self, node: MappingNode, path: KeyPath, above: frozenset[int]) -> dict[str, Any]:
        """A mapping; of a key that is written twice the first counts and the second is a fault."""
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.fault(key_node, path, "RN104", "a key must be one word", "put the braces in quotes")
                continue
            key = str(key_node.value)
            below = (*path, key)
            if key in data:
                line, col = self.parsed.places[below].key
                message = f"`{key}` is written twice: first at line {line}, column {col}"
                self.fault(key_node, below, "RN105", message, "keep one of them")
                continue
            self.parsed.places[below] = Place(_start(key_node), _start(value_node))
            data[key] = self.read(value_node, below, above)
        return data

    def scalar(self, node: Node) -> Any:
        """Null, bool, int and float as such; everything else (dates too) is the text that was written."""
        return self.constructor.construct_object(node) if node.tag in PLAIN_SCALARS else str(node.value)

    def fault(self, node: Node, path: KeyPath, code: str, message: str, hint: str = "") -> None:
        """Note a fault at a node."""
        self.parsed.faults.append(Fault(code, *_start(node), message, hint, path))

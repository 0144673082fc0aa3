"""Collects what is wrong with the rows of a data file, with stable codes and the place of each."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

from rnow_core.errors import Finding


class Code(StrEnum):
    """The stable codes of findings about data files."""

    FILE = "RN201"
    NO_ROWS = "RN202"
    ENCODING = "RN203"
    JSON = "RN204"
    NOT_OBJECT = "RN205"
    MISSING = "RN206"
    TYPE = "RN207"
    ROLE = "RN208"
    ORDER = "RN209"
    DOCKER_ENV = "RN210"
    NO_REWARDS = "RN211"
    PART = "RN212"
    ARGUMENTS = "RN213"
    TOOL_RESULT = "RN214"


class RowIssues:
    """The findings of one line; the checks add to it and go on."""

    def __init__(self, file: str, line: int | None = None) -> None:
        self.file = file
        self.line = line
        self.findings: list[Finding] = []

    def add(self, code: Code, path: str | None, message: str, hint: str = "", col: int | None = None) -> None:
        """Note one error at the JSON path of this line."""
        self.findings.append(Finding(code.value, "error", message, hint, self.file, self.line, col, path))

    def wrong_type(self, path: str, value: Any, expected: str, hint: str = "") -> None:
        """Note a value of the wrong type, saying what it is and what it should be."""
        self.add(Code.TYPE, path, f"got {shown(value)}, expected {expected}", hint)


def shown(value: Any, limit: int = 60) -> str:
    """A value as short JSON, named by its type, for a message."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"{names.get(type(value), type(value).__name__)} {text}"

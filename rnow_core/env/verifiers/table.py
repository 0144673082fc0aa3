"""The names of the built-in rewards, and what they need of a row. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rnow_core.env.define import RewardInfo

FOLDER = Path(__file__).parent / "builtin"
"""What the worker of the built-in rewards is started on: `rewards.py` lies here."""

KEYS = ("answer", "expected_answer")
"""Where in a row's metadata the answer stands: the first of these that is there."""

BUILT_IN: Mapping[str, RewardInfo] = MappingProxyType(
    {name: RewardInfo(name, "rnow", 1) for name in ("exact", "numeric", "math", "multiple_choice")}
)


def answers(metadata: Mapping[str, Any]) -> list[Any]:
    """The right answers of a row: one, or each of a list.

    Raises:
        ValueError: the metadata has none.
    """
    found = next((metadata[key] for key in KEYS if metadata.get(key) is not None), None)
    given = found if isinstance(found, list) else [found]
    if found is None or not given or any(isinstance(item, dict | list | None) for item in given):
        raise ValueError("the row has no metadata.answer: a text, a number, or a list of those")
    return given

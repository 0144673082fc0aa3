"""The plan of a run, as `validate` shows it to people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnow.display.lines import table

GIB = 2**30


def plan_table(plan: Mapping[str, Any]) -> list[str]:
    """Key and value of everything in the plan; what is named `memory...` is in bytes and shown in GiB."""
    return table({key: _in_gib(value) if key.startswith("memory") else value for key, value in plan.items()})


def _in_gib(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _in_gib(item) for key, item in value.items()}
    return f"{value / GIB:.2f} GiB" if isinstance(value, int | float) else value

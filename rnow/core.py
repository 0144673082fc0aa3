"""What a project's Python files import: `from rnow.core import tool, ToolArgs, reward, RewardArgs, get_response`.

`from rnow import ...` gives the same names.
"""

from typing import Any

from rnow_core.env.define import RewardArgs, get_response, reward
from rnow_core.env.runner.toolkit import ToolArgs, tool

__all__ = ["RewardArgs", "ToolArgs", "get_response", "reward", "tool"]

_NOT_YET = ("llm_judge",)


def __getattr__(name: str) -> Any:
    if name in _NOT_YET:
        raise ImportError(f"rnow.core.{name} is not available yet in this version of rnow")
    raise AttributeError(f"module 'rnow.core' has no attribute '{name}'")

"""What a project's Python files import: `from rnow.core import reward, RewardArgs, get_response`.

`from rnow import ...` gives the same names.
"""

from typing import Any

from rnow_core.env.define import RewardArgs, get_response, reward

__all__ = ["RewardArgs", "get_response", "reward"]

_NOT_YET = ("tool", "ToolArgs", "llm_judge")


def __getattr__(name: str) -> Any:
    if name in _NOT_YET:
        raise ImportError(f"rnow.core.{name} is not available yet in this version of rnow")
    raise AttributeError(f"module 'rnow.core' has no attribute '{name}'")

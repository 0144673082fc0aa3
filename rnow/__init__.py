"""Distil a big model into a small one on your own hardware."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnow.core import RewardArgs, ToolArgs, get_response, reward, tool

__all__ = ["RewardArgs", "ToolArgs", "get_response", "reward", "tool"]
__version__ = "0.1.0"

_IN_CORE = (*__all__, "llm_judge")


def __getattr__(name: str) -> Any:
    """Names of rnow.core, loaded when they are asked for: `import rnow` stays cheap."""
    if name in _IN_CORE:
        from rnow import core

        return getattr(core, name)
    raise AttributeError(f"module 'rnow' has no attribute '{name}'")

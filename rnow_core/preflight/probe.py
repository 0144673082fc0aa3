"""How a chat template writes the smallest conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnow_core.data.renderer import Renderer
from rnow_core.errors import RnowError


def render(renderer: Renderer, options: Mapping[str, Any], **more: Any) -> str | None:
    """One user message as text; None when the template refuses it."""
    try:
        return renderer.render([{"role": "user", "content": "question"}], **options, **more)
    except RnowError:
        return None


def reply_start(renderer: Renderer, options: Mapping[str, Any]) -> str:
    """What the template writes behind a conversation for the reply to begin; empty when it writes nothing."""
    whole = render(renderer, options) or ""
    history = render(renderer, options, add_generation_prompt=False) or ""
    return whole.removeprefix(history)

"""Where this rnow was installed from, so that a project can say how to install it again."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

NAME = "rnow-distill"


def requirement(extra: str) -> str:
    """The line of a requirements.txt that installs this distribution with an extra, from where it came from.

    The place is in `direct_url.json` (https://packaging.python.org/en/latest/specifications/direct-url).
    """
    try:
        told = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        told = None
    place = _place(json.loads(told)) if told else ""
    return f"{NAME}[{extra}] @ {place}" if place else f"{NAME}[{extra}]"


def _place(direct: dict[str, Any]) -> str:
    """A folder, an archive, or a repository with its commit."""
    repository = direct.get("vcs_info")
    if repository:
        return f"{repository['vcs']}+{direct['url']}@{repository['commit_id']}"
    return str(direct["url"])

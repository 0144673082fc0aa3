"""Rendering of the `*.j2` files of a template: sandboxed jinja2 in which an undefined name is an error."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from rnow_core.errors import RnowError

SUFFIX = ".j2"


def render(folder: Path, name: str, context: Mapping[str, Any]) -> str:
    """The file `name` below `folder`, rendered. Errors name the template's file and line."""
    environment = SandboxedEnvironment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    path = folder / name
    try:
        return environment.get_template(name).render(context)
    except (TemplateError, RnowError) as error:
        names = ", ".join(sorted(context))
        raise RnowError(
            f"{path}:{_line(error, path)}: {error}", f"The names that a template can use: {names}"
        ) from error


def _line(error: Exception, path: Path) -> int:
    """The template's line: syntax errors know it, for others it is in the traceback that jinja2 rewrites."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return int(getattr(error, "lineno", None) or (lines[-1] if lines else None) or 1)

"""The name clash on PyPI: the distribution `rnow` is another project's and ships a package of the same name.

Installed side by side the two overwrite each other's files, so nothing that is imported can be trusted.
The check looks for the metadata folder directly: `importlib.metadata` would say the same and costs as much
as the rest of `rnow --help`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rnow_core.errors import EnvironmentMissing


def stop_on_name_clash(search: Iterable[str] | None = None) -> None:
    """Raise EnvironmentMissing when the other project's distribution is on the import path."""
    for entry in sys.path if search is None else search:
        for found in Path(entry or ".").glob("rnow-*.dist-info"):
            version = found.name.removeprefix("rnow-").removesuffix(".dist-info")
            raise EnvironmentMissing(
                f"Another project's package `rnow` {version} is installed in {found.parent}; "
                "its files and those of rnow-distill overwrite each other.",
                "Use a fresh virtual environment, or remove both (pip uninstall rnow rnow-distill) "
                "and install rnow-distill again.",
            )

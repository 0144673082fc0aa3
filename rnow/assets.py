"""Where the skills and the templates are: inside the wheel, or at the root of a checkout."""

from __future__ import annotations

from pathlib import Path

from rnow_core.errors import EnvironmentMissing

PACKAGE = Path(__file__).resolve().parent


def asset_root() -> Path:
    """The folder that holds `skills/` and `templates/`."""
    for root in (PACKAGE / "_bundled", PACKAGE.parent):
        if (root / "skills").is_dir() and (root / "templates").is_dir():
            return root
    raise EnvironmentMissing(
        f"The skills and templates are neither in {PACKAGE / '_bundled'} nor in {PACKAGE.parent}.",
        "The installation is incomplete: pip install --force-reinstall rnow-distill",
    )


def folders(parent: Path) -> dict[str, Path]:
    """The folders below `parent` by name, sorted."""
    return {
        path.name: path for path in sorted(parent.iterdir()) if path.is_dir() and path.name[0] not in "._"
    }

"""Containers as people read them."""

from __future__ import annotations

from collections.abc import Sequence

from rnow.display.console import harmless
from rnow_core.env.sandbox.cleanup import SandboxRow

HEADS = ("NAME", "IMAGE", "RUN", "STATE", "CREATED", "OWNER")


def sandbox_table(rows: Sequence[SandboxRow]) -> list[str]:
    """A line a container below a line of headings; one sentence when there is none."""
    if not rows:
        return ["no containers"]
    cells = [
        HEADS,
        *(
            (row.name, row.image, row.run, row.state, row.created[:19], "ended" if row.orphan else "running")
            for row in rows
        ),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    orphans = sum(row.orphan for row in rows)
    note = [f"{orphans} of runs that have ended: rnow sandbox gc removes them"] if orphans else []
    return [harmless(line) for line in [*lines, *note]]


def removed_line(names: Sequence[str]) -> str:
    """What was removed."""
    return f"removed {len(names)}: {', '.join(names)}" if names else "nothing to remove"

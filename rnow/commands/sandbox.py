"""`rnow sandbox`: the containers that tools run in."""

from __future__ import annotations

import asyncio

from rnow.display import console
from rnow.display.sandboxes import removed_line, sandbox_table
from rnow_core.jobs.sandboxes import list_all, remove


def ls(modal: bool, as_json: bool) -> int:
    """List the containers of all runs."""
    rows = asyncio.run(list_all(modal=modal))
    if as_json:
        console.document({"sandboxes": rows})
        return 0
    for line in sandbox_table(rows):
        console.out(line)
    return 0


def gc(everything: bool, modal: bool, as_json: bool) -> int:
    """Remove what nobody owns any more, or all of ours."""
    names = asyncio.run(remove(everything=everything, modal=modal))
    if as_json:
        console.document({"removed": names})
    else:
        console.out(removed_line(names))
    return 0

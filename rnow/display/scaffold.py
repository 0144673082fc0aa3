"""What `rnow init` shows to people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rnow.display import console
from rnow.scaffold import Plan, State

MARKS: dict[State, tuple[str, str]] = {
    "create": ("create", "green"),
    "identical": ("same", "dim"),
    "conflict": ("overwrite", "yellow"),
    "blocked": ("blocked", "red"),
}


def show_plan(plan: Plan, steps: Iterable[str], dry_run: bool) -> None:
    """Each file and what was (or would be) done with it, then the next commands."""
    colour = console.coloured(sys.stdout)
    for file in plan.files:
        word, style = MARKS[file.state]
        console.out(f"  {console.paint(word.rjust(9), style, colour)}  {file.path}")
    if dry_run:
        console.out("\nDry run: nothing was written.")
        return
    console.out("\nNext:")
    for step in steps:
        console.out(f"  {console.paint(step, 'bold', colour)}")


def show_templates(rows: Iterable[Mapping[str, Any]]) -> None:
    """One line a template: its name and the first sentence of its skill's description."""
    colour = console.coloured(sys.stdout)
    for row in rows:
        sentence = str(row["description"]).split(". ")[0].rstrip(".")
        console.out(f"{console.paint(str(row['name']).ljust(20), 'bold', colour)}  {sentence}")

"""The checks of `rnow doctor` as people read them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from rnow.display import console
from rnow_core.jobs.doctor import DoctorCheck

COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}


def show_checks(checks: Sequence[DoctorCheck]) -> None:
    """A line a check, its fix below it, and a verdict."""
    colour = console.coloured(sys.stdout)
    width = max(len(check.name) for check in checks)
    state_width = max(map(len, COLOURS))
    for check in checks:
        state = console.paint(check.state.ljust(state_width), COLOURS[check.state], colour)
        console.out(f"{state}  {check.name.ljust(width)}  {console.harmless(check.message)}")
        for line in check.hint.splitlines() if check.state != "ok" else ():
            label = console.paint("fix:", "cyan", colour)
            console.out(f"{' ' * (state_width + width + 4)}{label} {line}")
    counts = Counter(check.state for check in checks)
    verdict = f"{counts['missing']} needed and missing" if counts["missing"] else "nothing needed is missing"
    said = f"{verdict}, {counts['warning']} warning{'' if counts['warning'] == 1 else 's'}"
    console.out(console.paint(said, "red" if counts["missing"] else "green", colour))

"""`rnow doctor`: what this machine has, and what is missing."""

from __future__ import annotations

from pathlib import Path

from rnow.clash import stop_on_name_clash
from rnow.display import console
from rnow.display.doctor import show_checks
from rnow_core.errors import EnvironmentMissing, UsageError
from rnow_core.jobs.doctor import DoctorCheck, examine


def doctor(directory: Path, as_json: bool) -> int:
    """Show every check. 3 when something needed is missing."""
    if not directory.is_dir():
        raise UsageError(f"There is no folder {directory}.", "Without --dir the current folder is looked at.")
    checks = [_name_clash(), *examine(directory)]
    ok = all(check.state != "missing" for check in checks)
    if as_json:
        console.document({"ok": ok, "checks": checks})
    else:
        show_checks(checks)
    return 0 if ok else EnvironmentMissing.exit_code


def _name_clash() -> DoctorCheck:
    try:
        stop_on_name_clash()
    except EnvironmentMissing as error:
        return DoctorCheck("name", "missing", error.message, error.hint)
    return DoctorCheck("name", "ok", "no other package is called rnow here")

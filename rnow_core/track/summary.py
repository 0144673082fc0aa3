"""`summary.json`: the figures that a finished run is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnow_core.track.atomic import write_json_atomic
from rnow_core.track.run_folder import RunFolder

SCHEMA = 1


def write_summary(run: RunFolder, data: Mapping[str, Any]) -> None:
    """Replace the run's summary.json; the run's name and the schema version are added.

    Raises:
        RunFailed: the disk did not take it.
    """
    write_json_atomic(run.summary_file, {"schema": SCHEMA, "run": run.name, **data})

"""`config.json` of a run: everything that a resumed run must share with the one that was started."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from rnow_core.build.fixed import Fixed
from rnow_core.config.schema import resolved
from rnow_core.errors import RunFailed
from rnow_core.preflight.report import Project

TOOLS_FILE = "tools.py"
PACKAGES = ("rnow-distill", "torch", "transformers", "peft", "tokenizers")


def stored_run(project: Project, fixed: Fixed, total_steps: int) -> dict[str, Any]:
    """Settings as resolved, sizes as chosen, hashes of the data, versions."""
    return {
        "config": resolved(project.loaded.config),
        "fixed": asdict(fixed),
        "total_steps": total_steps,
        "data": _data_hashes(project),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def require_same_data(stored: Mapping[str, str], project: Project) -> None:
    """Compare the data files with the hashes of when the run began.

    Raises:
        RunFailed: naming the files that changed.
    """
    now = _data_hashes(project)
    changed = sorted(name for name, digest in stored.items() if now.get(name) != digest)
    if changed:
        raise RunFailed(
            f"{', '.join(changed)} changed since this run began, so it cannot go on where it stopped",
            "restore the file, or start a new run",
        )


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


def _data_hashes(project: Project) -> dict[str, str]:
    config = project.loaded.config
    names = [*config.data.train_file, *config.eval_files]
    if config.dataset_type == "sft" and project.tools and (project.folder / TOOLS_FILE).is_file():
        names.append(TOOLS_FILE)  # its schemas are part of the ids
    names += [teacher.context_file for teacher in config.teacher if teacher.context_file]
    paths = {name: project.folder / Path(name).expanduser() for name in names}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}

"""A run on disk: `runs/NAME/` with its files, its lock and its status.

    config.json  status.json  metrics.jsonl  rollouts/step_000001.jsonl  checkpoints/step_000050/  adapters/
    best  summary.json  logs/  run.lock

Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rnow_core.errors import RunFailed, UsageError, WouldOverwrite
from rnow_core.track.atomic import clean_leftovers, write_json_atomic
from rnow_core.track.diskerrors import disk_errors
from rnow_core.track.lock import FileLock

RUNS = "runs"
SCHEMA = 1
State = Literal["running", "finished", "failed", "interrupted"]


class RunFolder:
    """The folder of one run, locked for this process until `close`. Made by `create` or `open_for_resume`."""

    def __init__(self, path: Path) -> None:
        """Make the folders, take the lock, remove what a killed process left half written.

        Raises:
            WouldOverwrite: another process is writing this run.
            RunFailed: the folder cannot be written.
        """
        self.path = path
        with disk_errors(path):
            for folder in (path, self.rollouts, self.checkpoints, self.adapters, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path / "run.lock")
        for folder in (path, self.rollouts, self.checkpoints, self.adapters):
            clean_leftovers(folder)

    @classmethod
    def create(cls, project_dir: Path, name: str | None = None) -> RunFolder:
        """A new run; without a name the next free of `run-001`, `run-002`, ...

        Raises:
            WouldOverwrite: the named run exists already.
            UsageError: the name is not a plain folder name.
        """
        runs = project_dir / RUNS
        if name is None:
            return cls(_next_free(runs))
        path = _named(runs, name)
        if path.exists() and not _never_began(path):
            raise WouldOverwrite(
                f"{path}: this run exists already and nothing was written",
                f"continue it with `rnow run --resume --name {name}`, or choose another --name",
            )
        return cls(path)

    @classmethod
    def open_for_resume(cls, project_dir: Path, name: str | None = None) -> RunFolder:
        """The named run, or the latest that has not finished.

        Raises:
            UsageError: there is no such run, or it has finished.
            WouldOverwrite: another process is still writing it.
        """
        runs = project_dir / RUNS
        return cls(_latest_unfinished(runs) if name is None else _unfinished(runs, name))

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """Everything the run was started with, resolved."""
        return self.path / "config.json"

    @property
    def status_file(self) -> Path:
        """What the run is doing now; replaced as a whole."""
        return self.path / "status.json"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        """The figures of a finished run."""
        return self.path / "summary.json"

    @property
    def best(self) -> Path:
        """A link to the checkpoint of the best evaluated step."""
        return self.path / "best"

    @property
    def rollouts(self) -> Path:
        """The folder of the traces."""
        return self.path / "rollouts"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def adapters(self) -> Path:
        """The folder of the versions published to a sampler."""
        return self.path / "adapters"

    @property
    def logs(self) -> Path:
        """The folder for logs of other programs."""
        return self.path / "logs"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Store the resolved configuration and everything else that a resume needs to be the same."""
        write_json_atomic(self.config_file, {"schema": SCHEMA, **config})

    def read_config(self) -> dict[str, Any]:
        """What `write_config` stored.

        Raises:
            RunFailed: the file is missing or broken.
        """
        config = read_json(self.config_file)
        if config is None:
            raise RunFailed(
                f"{self.config_file}: missing or not valid JSON, so this run cannot be resumed",
                "start a new run with `rnow run`",
            )
        return config

    def write_status(
        self,
        state: State,
        step: int,
        total_steps: int,
        metrics: Mapping[str, Any] | None = None,
        error: str | None = None,
        stages: Mapping[str, Any] | None = None,
        best: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace status.json. Times are UTC; `started` is the first start, also after a resume.

        Without `metrics` or `best` those of the status before stay. `stages`: where each stage of a run in stages
        stands. `best`: step, metric, value and path of the best checkpoint by evaluation; empty when there is none.
        """
        before = read_json(self.status_file) or {}
        best = before.get("best") if best is None else best
        now = datetime.now(UTC).isoformat(timespec="seconds")
        status = {
            "schema": SCHEMA,
            "state": state,
            "step": step,
            "total_steps": total_steps,
            "pid": os.getpid(),
            "started": before.get("started", now),
            "updated": now,
            "metrics": before.get("metrics", {}) if metrics is None else metrics,
            **({} if stages is None else {"stages": stages}),
            **({"best": best} if best else {}),
        }
        write_json_atomic(self.status_file, status if error is None else {**status, "error": error})

    def close(self) -> None:
        """Let another process write this run."""
        self._lock.release()


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None when the file is missing or holds something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _next_free(runs: Path) -> Path:
    """Makes the folder as well: of two processes that start at once, each gets its own."""
    with disk_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = runs / f"run-{number:03d}"
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path


def _never_began(path: Path) -> bool:
    """True for what a process leaves that was killed before it had written its config: folders, lock, temporaries."""
    return path.is_dir() and not any(
        item.is_file() and item.name != "run.lock" and not item.name.startswith(".tmp-")
        for item in path.rglob("*")
    )


def _named(runs: Path, name: str) -> Path:
    if name in ("", ".", "..") or name != Path(name).name or name.startswith("."):
        raise UsageError(f"--name {name!r} is not a plain folder name", "use letters, digits, `-` and `_`")
    return runs / name


def _unfinished(runs: Path, name: str) -> Path:
    path = _named(runs, name)
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such run to resume", _existing(runs))
    status = read_json(path / "status.json") or {}
    if status.get("state") == "finished":
        raise UsageError(
            f"{path}: this run has finished ({status.get('step')} of {status.get('total_steps')} steps)",
            "start a new one with `rnow run`",
        )
    return path


def _latest_unfinished(runs: Path) -> Path:
    found = [path for path in _all_runs(runs) if (path / "config.json").is_file()]
    open_runs = [path for path in found if (read_json(path / "status.json") or {}).get("state") != "finished"]
    if not open_runs:
        what = "every run has finished" if found else "there is no run yet"
        raise UsageError(f"{runs}: nothing to resume, {what}", "start one with `rnow run`")
    return max(open_runs, key=lambda path: ((path / "config.json").stat().st_mtime_ns, path.name))


def _all_runs(runs: Path) -> list[Path]:
    return sorted(path for path in runs.glob("*") if path.is_dir())


def _existing(runs: Path) -> str:
    names = ", ".join(path.name for path in _all_runs(runs))
    return f"existing runs: {names}" if names else "start one with `rnow run`"

"""Metrics to Weights & Biases, when `logging.wandb_project` is set."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from rnow_core.errors import EnvironmentMissing
from rnow_core.track.atomic import write_json_atomic
from rnow_core.track.events import Emit
from rnow_core.track.run_folder import RunFolder, read_json
from rnow_core.track.sinks import GuardedSink, Sink

INIT_SECONDS = 30.0
_ID_FILE = "wandb.json"


def open_wandb(run: RunFolder, project: str, name: str | None, config: Mapping[str, Any], emit: Emit) -> Sink:
    """A sink for the run; a resumed run goes on in the same W&B run. Later failures only warn.

    Args:
        run: its name is the default for `name`; W&B's own files go to its logs folder.
        project: the W&B project.
        name: the run's title there.
        config: JSON-ready, without secrets.
        emit: takes the warning when W&B fails.

    Raises:
        EnvironmentMissing: the package or the credentials are not there.
    """
    wandb = _import_wandb()
    return GuardedSink("W&B", lambda: WandbSink(wandb, run, project, name or run.name, config), emit)


class WandbSink:
    """One W&B run. It drops steps that it already has: a resume that repeats some adds nothing twice."""

    def __init__(
        self, wandb: Any, run: RunFolder, project: str, name: str, config: Mapping[str, Any]
    ) -> None:
        """Start or continue the W&B run; WANDB_MODE=offline keeps it on this machine.

        Raises:
            EnvironmentMissing: W&B has no credentials.
        """
        try:
            self._run = wandb.init(
                project=project,
                name=name,
                id=_run_id(run),
                resume="allow",
                dir=str(run.logs),
                config=dict(config),
                settings=wandb.Settings(
                    console="off", silent=True, disable_git=True, save_code=False, init_timeout=INIT_SECONDS
                ),
            )
        except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
            raise EnvironmentMissing(
                f"logging.wandb_project is set, but W&B refuses to start: {error}",
                "set WANDB_API_KEY, or WANDB_MODE=offline, or remove logging.wandb_project",
            ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the finite metrics of a step."""
        finite = {key: value for key, value in metrics.items() if math.isfinite(value)}
        self._run.log(finite, step=step)

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()


def _import_wandb() -> Any:
    try:
        return import_module("wandb")
    except ImportError as error:
        raise EnvironmentMissing(
            "logging.wandb_project is set, but the package `wandb` is not installed",
            "pip install 'rnow-distill[wandb]', or remove logging.wandb_project",
        ) from error


def _run_id(run: RunFolder) -> str:
    """The id of the W&B run, kept in the run folder so that a resume finds it."""
    path = run.path / _ID_FILE
    stored = read_json(path)
    if stored is not None:
        return str(stored["id"])
    identifier = uuid.uuid4().hex[:12]
    write_json_atomic(path, {"id": identifier})
    return identifier

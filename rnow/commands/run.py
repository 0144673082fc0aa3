"""`rnow run`: train, show it, stop cleanly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from rnow.commands import validate
from rnow.display.failure import show_error
from rnow.display.run import RunDisplay, choose_display
from rnow.guard import crash
from rnow.signals import stop_on_signals
from rnow_core.errors import RnowError
from rnow_core.models.extras import require_training_packages
from rnow_core.stop import StopSignal
from rnow_core.track.events import Event


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asked for. `overrides` are KEY=VALUE strings."""

    directory: Path
    overrides: tuple[str, ...] = ()
    name: str | None = None
    resume: bool = False


def dry_run(request: RunRequest, as_json: bool) -> int:
    """What `run` would check first, and the plan; nothing is written."""
    return validate.validate(request.directory, list(request.overrides), as_json)


def run(request: RunRequest, as_json: bool) -> int:
    """Train and show every event. Errors are shown here, where the display and the run's folder are known.

    Under torchrun the processes above rank 0 only help to train.
    """
    validate.check_arguments(request.directory, request.overrides)
    require_training_packages()
    if int(os.environ.get("RANK", "0")) > 0:
        from rnow_core.jobs.rank import follow

        follow()
        return 0
    load_env_file(request.directory)
    display = choose_display(as_json)
    watched = _Watched(display)
    try:
        _train(request, watched)
    except RnowError as error:
        display.close()
        return show_error(error, as_json, request.directory)
    except Exception as error:
        display.close()
        return show_error(crash(error, watched.logs), as_json)
    finally:
        display.close()
    return 0


class _Watched:
    """A display that remembers where the run writes its logs."""

    def __init__(self, display: RunDisplay) -> None:
        self.display = display
        self.logs: Path | None = None

    def emit(self, event: Event) -> None:
        """Pass the event on."""
        if event.kind in ("run_started", "stage_started"):
            self.logs = Path(event.fields["path"]) / "logs"
        self.display.show(event)


def _train(request: RunRequest, watched: _Watched) -> None:
    stop = StopSignal()
    with stop_on_signals(stop, watched.display.notice):
        # Importing takes seconds: a Ctrl-C meanwhile is already a request to stop.
        from rnow_core.jobs.train import train

        train(
            request.directory,
            overrides=list(request.overrides),
            name=request.name,
            resume=request.resume,
            emit=watched.emit,
            stop=stop,
        )


def load_env_file(directory: Path) -> None:
    """Add the project's `.env` to the environment; what is set already stays. Nothing of it is passed on by itself:
    the worker that runs the project's code gets only the secrets that the config names.
    """
    from dotenv import load_dotenv

    load_dotenv(directory / ".env", override=False)

"""`rnow eval`: student, base and teacher on the same problems."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnow.commands import validate
from rnow.commands.run import load_env_file
from rnow.display import console
from rnow.display.eval import show_table
from rnow.display.failure import show_error
from rnow.display.run import NOTES, raw_notice
from rnow.signals import stop_on_signals
from rnow_core.errors import FindingsError
from rnow_core.models.extras import require_training_packages
from rnow_core.stop import StopSignal
from rnow_core.track.events import Event

NOTICE = "Stopping: the problems under way are finished and saved first. Press Ctrl-C again to stop now."


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What the command line asked for; see `rnow_core.jobs.eval_subject.EvalRequest`."""

    run: str | None = None
    checkpoint: int | None = None
    without_run: bool = False
    base: bool = True
    teacher: bool = True
    file: Path | None = None
    samples: int | None = None
    rewards: tuple[str, ...] = ()
    name: str | None = None


def evaluate(arguments: list[str], options: EvalOptions, as_json: bool) -> int:
    """Sample, show, save."""
    directory, overrides = validate.split_arguments(arguments)
    validate.check_arguments(directory, overrides)
    require_training_packages()
    load_env_file(directory)
    stop = StopSignal()
    try:
        with stop_on_signals(stop, lambda _: raw_notice(NOTICE)):
            from rnow_core.jobs import evaluate as job
            from rnow_core.jobs.eval_subject import EvalRequest

            named = {name: getattr(options, name) for name in EvalOptions.__slots__}
            request = EvalRequest(project_dir=directory, overrides=tuple(overrides), **named)
            table = job.evaluate(request, _tell, stop)
    except FindingsError as error:
        return show_error(error, as_json, directory)
    if as_json:
        console.document(table)
    else:
        show_table(table)
    return 0


def _tell(event: Event) -> None:
    console.err(NOTES[event.kind](event))

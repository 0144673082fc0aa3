"""`rnow test`: a few rollouts, shown and saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rnow.commands import validate
from rnow.commands.run import load_env_file
from rnow.display import console, trial
from rnow.display.failure import show_error
from rnow.display.run import NOTES
from rnow_core.errors import FindingsError
from rnow_core.models.extras import require_training_packages
from rnow_core.track.events import Event


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What the command line asked for; see `rnow_core.jobs.trial.TrialRequest`."""

    directory: Path
    overrides: tuple[str, ...] = ()
    rollouts: int | None = None
    entry: str | None = None
    teacher: bool = True


def test(options: TrialOptions, verbose: bool, as_json: bool) -> int:
    """Sample, show, save. 1 when a rollout failed."""
    validate.check_arguments(options.directory, options.overrides)
    require_training_packages()
    load_env_file(options.directory)
    from rnow_core.jobs.trial import TrialRequest, try_rollouts

    request = TrialRequest(
        options.directory, options.overrides, options.rollouts, options.entry, options.teacher
    )
    try:
        tried = try_rollouts(request, _tell)
    except FindingsError as error:
        return show_error(error, as_json, options.directory)
    if as_json:
        console.document(trial.trial_data(tried))
    else:
        trial.show_trial(tried, verbose)
    return 1 if tried.failures else 0


def _tell(event: Event) -> None:
    console.err(NOTES[event.kind](event))

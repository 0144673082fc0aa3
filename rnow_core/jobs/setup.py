"""From a project or an interrupted run to a job that is ready to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rnow_core.build.fixed import Fixed, choose_fixed
from rnow_core.config.load import LoadedConfig
from rnow_core.config.schema import Config, resolved
from rnow_core.config.source import Source
from rnow_core.errors import FindingsError, RnowError, UsageError
from rnow_core.jobs.job import Ingredients, Job
from rnow_core.jobs.off_policy import off_policy_job
from rnow_core.jobs.on_policy import on_policy_job
from rnow_core.jobs.stored import require_same_data, stored_run
from rnow_core.preflight.check import CONFIG_FILE, check_loaded
from rnow_core.preflight.report import Project, Report
from rnow_core.stop import StopSignal
from rnow_core.track.clock import PhaseClock
from rnow_core.track.events import Emit, Event
from rnow_core.track.metrics import MetricsFile
from rnow_core.track.run_folder import RunFolder
from rnow_core.track.sinks import Sink
from rnow_core.track.wandb_sink import open_wandb
from rnow_core.train.between_steps import load_checkpoint
from rnow_core.train.record import RunRecord


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start; it was saved behind the step `begun`."""

    job: Job
    record: RunRecord
    total_steps: int
    begun: int


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for."""

    project_dir: Path
    overrides: Sequence[str]
    name: str | None
    emit: Emit
    stop: StopSignal


def prepare_new(wanted: Wanted, report: Report) -> Setup:
    """Make the run folder of a checked project, load the models.

    Raises:
        FindingsError: the project has errors; nothing was written.
        WouldOverwrite: a run of this name exists.
    """
    project, plan = require_project(report, wanted.emit)
    fixed = choose_fixed(project.loaded.config, plan)
    folder = RunFolder.create(wanted.project_dir, wanted.name)
    folder.write_config(stored_run(project, fixed, plan["steps"]))
    changes = [asdict(change) for change in project.loaded.changes]
    try:
        return assemble(wanted, project, fixed, folder, plan["steps"], False, {"changes": changes})
    except BaseException as error:
        with suppress(RnowError):  # a full disk: the error that is on its way says more
            folder.write_status("failed", 0, plan["steps"], error=str(error))
        folder.close()
        raise


def open_unfinished(wanted: Wanted) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of an unfinished run, locked, and what its config.json says.

    Raises:
        UsageError: there is nothing to resume, or overrides were given.
        RunFailed: its config.json is missing.
    """
    if wanted.overrides:
        raise UsageError(
            "a resumed run keeps the settings that it was started with; got " + ", ".join(wanted.overrides),
            "start a new run to change them",
        )
    folder = RunFolder.open_for_resume(wanted.project_dir, wanted.name)
    try:
        return folder, folder.read_config()
    except BaseException:
        folder.close()
        raise


def prepare_resumed(wanted: Wanted, folder: RunFolder, stored: Mapping[str, Any]) -> Setup:
    """Go back to the last checkpoint of an unfinished run. Its own config.json counts, not config.yml.

    Raises:
        RunFailed: the data has changed since the run began.
    """
    try:
        loaded = stored_config(wanted.project_dir, folder, stored["config"])
        project, _ = require_project(check_loaded(wanted.project_dir, loaded), wanted.emit)
        require_same_data(stored["data"], project)
        fixed = Fixed.stored(stored["fixed"])
        return assemble(wanted, project, fixed, folder, stored["total_steps"], True, {"changes": []})
    except BaseException:
        folder.close()
        raise


def stored_config(project_dir: Path, folder: RunFolder, data: Mapping[str, Any]) -> LoadedConfig:
    """The config in a run's config.json."""
    source = Source(str(folder.config_file), data, {})
    return LoadedConfig(Config.model_validate(data), project_dir / CONFIG_FILE, (), (), source)


def require_project(report: Report, emit: Emit) -> tuple[Project, dict[str, Any]]:
    """The checked project and its plan; warnings are told, errors raised as FindingsError."""
    if report.project is None:
        raise FindingsError([f for f in report.findings if f.severity == "error"])
    tell_warnings(report, emit)
    return report.project, report.plan


def tell_warnings(report: Report, emit: Emit) -> None:
    """Every warning of a check as an event."""
    for finding in report.findings:
        if finding.severity == "warning":
            place = f"{finding.where()}: " if finding.file else ""
            emit(Event("warning", {"message": f"{place}{finding.message}", "hint": finding.hint}))


def assemble(
    wanted: Wanted,
    project: Project,
    fixed: Fixed,
    folder: RunFolder,
    total_steps: int,
    resumed: bool,
    told: dict[str, Any],
) -> Setup:
    """Load the models and tie everything to the run folder; `told` goes into the event `run_started`."""
    config = project.loaded.config
    record = _record(config, project, folder, total_steps, wanted.emit)
    checkpoint = record.checkpoints.latest() if resumed else None
    fields = {"run": folder.name, "path": str(folder.path), "total_steps": total_steps, **told}
    fields["resumed_from"] = checkpoint.step if checkpoint else None
    wanted.emit(Event("run_started", fields))
    given = Ingredients(project, fixed, record, total_steps, checkpoint, wanted.stop)
    job: Job = off_policy_job(given) if config.dataset_type == "sft" else on_policy_job(given)
    if checkpoint is not None:
        load_checkpoint(job.learner, checkpoint)
    record.rewind(checkpoint)
    return Setup(job, record, total_steps, checkpoint.step if checkpoint else 0)


def _record(config: Config, project: Project, folder: RunFolder, total_steps: int, emit: Emit) -> RunRecord:
    return RunRecord(
        folder=folder,
        metrics=MetricsFile(folder.metrics_file),
        total_steps=total_steps,
        keep_rollouts=config.logging.keep_rollouts,
        seed=config.seed,
        clock=PhaseClock(),
        emit=emit,
        pieces=project.renderer.pieces,
        sinks=_sinks(config, folder, emit),
    )


def _sinks(config: Config, folder: RunFolder, emit: Emit) -> tuple[Sink, ...]:
    project, name = config.logging.wandb_project, config.logging.wandb_name
    return (open_wandb(folder, project, name, resolved(config), emit),) if project else ()

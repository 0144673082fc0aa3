"""A run in stages: each a whole run in a folder of its own, one after the other, every one resumable.

    runs/NAME/  config.json  status.json  summary.json  stages/01-sft/  stages/02-distill/

The top config.json has everything that each stage starts with but what the stage before it leaves behind; a stage's
own config.json, written when it begins, has that too.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rnow_core.build.fixed import Fixed, choose_fixed
from rnow_core.config.schema import Config, resolved
from rnow_core.errors import FindingsError, Interrupted, RnowError, UsageError
from rnow_core.jobs.attempt import ended_event, ending, run_to_end
from rnow_core.jobs.setup import Setup, Wanted, assemble, stored_config, tell_warnings
from rnow_core.jobs.starting_point import starting_from
from rnow_core.jobs.stored import require_same_data, stored_run
from rnow_core.jobs.summary import summarise_stages
from rnow_core.models.device import free_cache
from rnow_core.models.rank_processes import launched_by_torchrun
from rnow_core.preflight.base_models import after_training
from rnow_core.preflight.check import check_loaded
from rnow_core.preflight.report import Project, Report
from rnow_core.preflight.stages import check_stages
from rnow_core.track.events import Emit, Event, Kind
from rnow_core.track.run_folder import RunFolder, State, read_json
from rnow_core.track.summary import write_summary

UNUSED = ("rollouts", "checkpoints", "adapters")
"""Folders that a run has and its stages have instead."""

OF_STAGE: Mapping[str, Kind | None] = {
    "run_started": "stage_started",
    "run_finished": "stage_finished",
    "run_failed": None,
    "run_interrupted": None,
}
"""What a run says that is a stage here; None for what the whole says itself."""


@dataclass(frozen=True)
class Stage:
    """A stage of a run. `stored` is its part of the top config.json; `project` is None once it has finished."""

    name: str
    path: Path
    stored: Mapping[str, Any]
    project: Project | None

    @property
    def total_steps(self) -> int:
        """Steps of the stage."""
        return int(self.stored["total_steps"])


@dataclass(frozen=True)
class StagedRun:
    """A run in stages that is ready to go on."""

    wanted: Wanted
    folder: RunFolder
    stages: Sequence[Stage]
    changes: Sequence[Mapping[str, Any]] = ()

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.total_steps for stage in self.stages)

    def write_status(self, state: State, error: str | None = None) -> int:
        """status.json of the whole, from those of the stages; returns the steps that are done."""
        standing = {stage.name: _standing(stage) for stage in self.stages}
        step: int = sum(one["step"] for one in standing.values())
        self.folder.write_status(state, step, self.total_steps, error=error, stages=standing)
        return step


def new_staged_run(wanted: Wanted, report: Report) -> StagedRun:
    """Choose sizes for every stage and make the run's folder.

    Raises:
        FindingsError: a stage has errors; nothing was written.
        UsageError: torchrun started this process.
        WouldOverwrite: a run of this name exists.
    """
    projects = _require_projects(report, wanted.emit)
    stored: dict[str, dict[str, Any]] = {}
    for name, project in projects.items():
        plan = report.stages[name].plan
        fixed = choose_fixed(project.loaded.config, plan)
        stored[name] = {
            "continues": name in report.continued,
            **stored_run(project, fixed, plan["steps"]),
        }
    folder = RunFolder.create(wanted.project_dir, wanted.name)
    try:
        folder.write_config({"stages": stored})
    except BaseException:
        folder.close()
        raise
    changes = next(iter(projects.values())).loaded.changes
    return _staged_run(wanted, folder, stored, projects, [asdict(change) for change in changes])


def resumed_staged_run(wanted: Wanted, folder: RunFolder, stored: Mapping[str, Any]) -> StagedRun:
    """Check the stages that have not finished, with the settings that the run was started with.

    Raises:
        FindingsError: the project has errors.
        RunFailed: the data has changed since the run began.
        UsageError: torchrun started this process.
    """
    try:
        left = {name: data for name, data in stored["stages"].items() if not _finished(_place(folder, name))}
        configs = {
            name: stored_config(wanted.project_dir, folder, data["config"]) for name, data in left.items()
        }
        report = check_stages(wanted.project_dir, (), configs, partial(check_loaded, wanted.project_dir))
        going_on = frozenset(name for name, data in left.items() if data["continues"])
        projects = _require_projects(after_training(replace(report, continued=going_on)), wanted.emit)
        for name, project in projects.items():
            require_same_data(left[name]["data"], project)
        return _staged_run(wanted, folder, stored["stages"], projects, ())
    except BaseException:
        folder.close()
        raise


def run_stages(run: StagedRun) -> dict[str, Any]:
    """Run what has not finished, one stage after the other.

    Returns:
        The content of summary.json.

    Raises:
        Interrupted: the user asked to stop; the step, or the stage, is saved.
        RnowError: a stage failed; its error ends the whole.
    """
    fields = {
        "run": run.folder.name,
        "path": str(run.folder.path),
        "total_steps": run.total_steps,
        "resumed_from": None,
        "stages": [stage.name for stage in run.stages],
        "changes": run.changes,
    }
    try:
        run.wanted.emit(Event("run_started", fields))
        summaries = {stage.name: _run_stage(run, index) for index, stage in enumerate(run.stages)}
        summary = summarise_stages(summaries)
        write_summary(run.folder, summary)
        step = run.write_status("finished")
        run.wanted.emit(Event("run_finished", {"step": step, "summary": summary}))
        return summary
    except BaseException as error:
        state, message = ending(error)
        step = 0
        with suppress(RnowError):  # a full disk: the error that is on its way already says so
            step = run.write_status(state, message)
        run.wanted.emit(ended_event(error, step))
        raise
    finally:
        run.folder.close()


def _run_stage(run: StagedRun, index: int) -> dict[str, Any]:
    """The summary of a stage, run to its end unless it has ended."""
    stage = run.stages[index]
    if stage.project is None:
        return read_json(stage.path / "summary.json") or {}
    if index and run.wanted.stop.requested:
        raise Interrupted(
            f"stopped after stage {run.stages[index - 1].name}", "continue with: rnow run --resume"
        )
    gc.collect()  # models hold on to themselves: those of the stage before go before these are loaded
    free_cache()
    run.write_status("running")
    return run_to_end(partial(_prepare, run, index, stage.project))


def _prepare(run: StagedRun, index: int, project: Project) -> Setup:
    """Load the models of a stage, where the stage before it left off or at its own last checkpoint."""
    stage = run.stages[index]
    folder = RunFolder(stage.path)
    try:
        config = project.loaded.config
        if stage.stored["continues"]:
            config = starting_from(config, run.stages[index - 1].path, run.wanted.project_dir)
        config = titled(config, f"{run.folder.name}/{stage.name}")
        project = replace(project, loaded=replace(project.loaded, config=config))
        if not folder.config_file.exists():
            folder.write_config({**stage.stored, "config": resolved(config)})
        wanted = replace(run.wanted, emit=_emitter(run, stage))
        fixed = Fixed.stored(stage.stored["fixed"])
        return assemble(wanted, project, fixed, folder, stage.total_steps, True, {"changes": []})
    except BaseException as error:
        state, message = ending(error)
        with suppress(RnowError):  # a full disk: the error that is on its way says more
            folder.write_status(state, _standing(stage)["step"], stage.total_steps, error=message)
        folder.close()
        raise


def titled(config: Config, run: str) -> Config:
    """The config with a name for its W&B run, so that each stage has one of its own."""
    logging = config.logging
    title = f"{logging.wandb_name}/{run.rpartition('/')[2]}" if logging.wandb_name else run
    named = logging.model_copy(update={"wandb_name": title if logging.wandb_project else None})
    return config.model_copy(update={"logging": named})


def _emitter(run: StagedRun, stage: Stage) -> Emit:
    """Events of a stage as those of the whole: each names its stage."""

    def emit(event: Event) -> None:
        kind = OF_STAGE.get(event.kind, event.kind)
        if event.kind in ("step", "run_finished"):
            run.write_status("running")
        if kind is not None:
            fields = {**event.fields, "stage": stage.name}
            run.wanted.emit(replace(event, kind=kind, fields=fields))

    return emit


def _staged_run(
    wanted: Wanted,
    folder: RunFolder,
    stored: Mapping[str, Mapping[str, Any]],
    projects: Mapping[str, Project],
    changes: Sequence[Mapping[str, Any]],
) -> StagedRun:
    for name in UNUSED:
        with suppress(OSError):
            (folder.path / name).rmdir()
    stages = [Stage(name, _place(folder, name), data, projects.get(name)) for name, data in stored.items()]
    return StagedRun(wanted, folder, stages, changes)


def _require_projects(report: Report, emit: Emit) -> dict[str, Project]:
    """The checked project of each stage; warnings are told, errors raised."""
    if launched_by_torchrun():
        raise UsageError(
            "`stages` cannot be started by torchrun: its ranks would end with the first stage",
            "start `rnow run` itself, which starts a rank for each of resources.trainer_gpus",
        )
    projects = {name: one.project for name, one in report.stages.items() if one.project is not None}
    if not report.ok:
        raise FindingsError([f for f in report.findings if f.severity == "error"])
    tell_warnings(report, emit)
    return projects


def _place(folder: RunFolder, name: str) -> Path:
    return folder.path / "stages" / name


def _finished(path: Path) -> bool:
    return (read_json(path / "status.json") or {}).get("state") == "finished"


def _standing(stage: Stage) -> dict[str, Any]:
    """Where a stage stands, from its own status.json."""
    status = read_json(stage.path / "status.json") or {}
    return {
        "state": status.get("state", "waiting"),
        "step": status.get("step", 0),
        "total_steps": stage.total_steps,
    }

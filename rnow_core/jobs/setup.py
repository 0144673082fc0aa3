"""From a project or an interrupted run to everything that `train_on_policy` needs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rnow_core.build.assemble import Built, build
from rnow_core.build.fixed import Fixed, choose_fixed, samples_plainly
from rnow_core.build.phases import Clock
from rnow_core.build.tools import make_tools, secrets_of
from rnow_core.config.load import LoadedConfig
from rnow_core.config.schema import Config, resolved
from rnow_core.config.source import Source
from rnow_core.data.batches import PromptBatches
from rnow_core.env.rewards import ProjectRewards
from rnow_core.errors import FindingsError, RnowError, RunFailed, UsageError
from rnow_core.jobs.stored import require_same_data, stored_run
from rnow_core.models.seams import Learner
from rnow_core.preflight.check import check_loaded, check_project
from rnow_core.preflight.report import Project, Report
from rnow_core.stop import StopSignal
from rnow_core.track.checkpoints import Checkpoint
from rnow_core.track.clock import PhaseClock
from rnow_core.track.events import Emit, Event
from rnow_core.track.metrics import MetricsFile
from rnow_core.track.run_folder import RunFolder
from rnow_core.track.sinks import Sink
from rnow_core.track.wandb_sink import open_wandb
from rnow_core.train.on_policy import EvalPlan, OnPolicyRun
from rnow_core.train.record import RunRecord


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start, behind `checkpoint` when it is resumed."""

    config: Config
    run: OnPolicyRun
    built: Built
    rewards: ProjectRewards
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for."""

    project_dir: Path
    overrides: Sequence[str]
    name: str | None
    emit: Emit
    stop: StopSignal


def prepare_new(wanted: Wanted) -> Setup:
    """Check the project, make the run folder, load the models.

    Raises:
        FindingsError: the project has errors; nothing was written.
        WouldOverwrite: a run of this name exists.
    """
    project, plan = require_project(check_project(wanted.project_dir, wanted.overrides), wanted.emit)
    fixed = choose_fixed(project.loaded.config, plan)
    folder = RunFolder.create(wanted.project_dir, wanted.name)
    folder.write_config(stored_run(project, fixed, plan["steps"]))
    changes = [asdict(change) for change in project.loaded.changes]
    try:
        return _assemble(wanted, project, fixed, folder, plan["steps"], False, {"changes": changes})
    except BaseException as error:
        with suppress(RnowError):  # a full disk: the error that is on its way says more
            folder.write_status("failed", 0, plan["steps"], error=str(error))
        folder.close()
        raise


def prepare_resumed(wanted: Wanted) -> Setup:
    """Open an unfinished run and go back to its last checkpoint. Its own config.json counts, not config.yml.

    Raises:
        UsageError: there is nothing to resume, or overrides were given.
        RunFailed: the run has no checkpoint, or the data has changed since it began.
    """
    if wanted.overrides:
        raise UsageError(
            "a resumed run keeps the settings that it was started with; got " + ", ".join(wanted.overrides),
            "start a new run to change them",
        )
    folder = RunFolder.open_for_resume(wanted.project_dir, wanted.name)
    try:
        return _resume(wanted, folder)
    except BaseException:
        folder.close()
        raise


def _resume(wanted: Wanted, folder: RunFolder) -> Setup:
    stored = folder.read_config()
    config = Config.model_validate(stored["config"])
    loaded = LoadedConfig(
        config,
        wanted.project_dir / "config.yml",
        (),
        (),
        Source(str(folder.config_file), stored["config"], {}),
    )
    project, _ = require_project(check_loaded(wanted.project_dir, loaded), wanted.emit)
    require_same_data(stored["data"], project)
    return _assemble(
        wanted, project, Fixed.stored(stored["fixed"]), folder, stored["total_steps"], True, {"changes": []}
    )


def require_project(report: Report, emit: Emit) -> tuple[Project, dict[str, Any]]:
    """The checked project and its plan; warnings are told, errors raised as FindingsError."""
    if report.project is None:
        raise FindingsError([f for f in report.findings if f.severity == "error"])
    for finding in report.findings:
        if finding.severity == "warning":
            place = f"{finding.where()}: " if finding.file else ""
            emit(Event("warning", {"message": f"{place}{finding.message}", "hint": finding.hint}))
    return report.project, report.plan


def _assemble(
    wanted: Wanted,
    project: Project,
    fixed: Fixed,
    folder: RunFolder,
    total_steps: int,
    resumed: bool,
    told: dict[str, Any],
) -> Setup:
    """Load the models and tie everything to the run folder."""
    config = project.loaded.config
    record = _record(config, project, folder, total_steps, wanted.emit)
    checkpoint = record.checkpoints.latest() if resumed else None
    fields = {"run": folder.name, "path": str(folder.path), "total_steps": total_steps, **told}
    fields["resumed_from"] = checkpoint.step if checkpoint else None
    wanted.emit(Event("run_started", fields))
    rewards, built = load_parts(project, fixed, folder.path, total_steps, record.clock.phase)
    if checkpoint is not None:
        _load(built.learner, checkpoint)
    record.rewind(checkpoint)
    return Setup(
        config=config,
        run=_on_policy_run(wanted, project, built, record, total_steps),
        built=built,
        rewards=rewards,
        checkpoint=checkpoint,
    )


def load_parts(
    project: Project, fixed: Fixed, run_dir: Path, total_steps: int, clock: Clock
) -> tuple[ProjectRewards, Built]:
    """Rewards, tools and models of a project; nothing is started yet. Logs go below `run_dir`."""
    config = project.loaded.config
    rewards = ProjectRewards(
        project.folder,
        timeout=config.rollout.reward_timeout,
        log=run_dir / "logs" / "rewards.log",
        secrets=secrets_of(config),
        sandboxes=config.sandbox.engine != "none",
    )
    tools = make_tools(
        config,
        project.tools,
        project.renderer,
        sandboxed_rewards=any(info.sandbox for info in project.rewards.values()),
        project=project.folder,
        run_dir=run_dir,
    )
    built = build(
        config,
        fixed,
        project_dir=project.folder,
        run_dir=run_dir,
        renderer=project.renderer,
        context_window=project.context_window,
        rewards=rewards,
        tools=tools,
        total_steps=total_steps,
        clock=clock,
    )
    return rewards, built


def _load(learner: Learner, checkpoint: Checkpoint) -> None:
    try:
        learner.load(checkpoint.path)
    except (OSError, SafetensorError) as error:
        raise RunFailed(
            f"{checkpoint.path} is damaged: {error}",
            "remove that folder to go on from the checkpoint before it",
        ) from error


def _on_policy_run(
    wanted: Wanted, project: Project, built: Built, record: RunRecord, total_steps: int
) -> OnPolicyRun:
    config = project.loaded.config
    evaluation = (
        EvalPlan(
            name=config.eval_name,
            prompts=project.eval_prompts,
            group_size=config.eval.group_size,
            batch_size=config.eval.batch_size,
            every=config.trainer.eval_step,
            parts=built.evaluation,
            baseline=built.baseline,
        )
        if project.eval_prompts
        else None
    )
    return OnPolicyRun(
        prompts=PromptBatches(project.prompts, config.data.batch_size, config.seed),
        group_size=config.data.group_size,
        total_steps=total_steps,
        save_every=config.trainer.save_step,
        mask_truncated=config.rollout.mask_truncated,
        parts=built.training,
        learner=built.learner,
        device=built.device,
        adapters=built.engine.adapters,
        evaluation=evaluation,
        record=record,
        stop=wanted.stop,
        watch_mismatch=samples_plainly(config),
        async_level=built.async_level,
    )


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

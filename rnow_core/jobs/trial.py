"""`rnow test`: a few rollouts of a project as it is, judged by its rewards and its teacher. Nothing is trained."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rnow_core.build.assemble import Built
from rnow_core.build.engine import Progress
from rnow_core.build.fixed import choose_fixed
from rnow_core.build.placement import engine_of
from rnow_core.config.load import load_config
from rnow_core.config.schema import Config
from rnow_core.config.stages import sampling_stage
from rnow_core.env.rewards import ProjectRewards
from rnow_core.errors import FindingsError, RolloutFailed, UsageError
from rnow_core.jobs.on_policy import load_parts
from rnow_core.jobs.setup import require_project
from rnow_core.preflight.check import CONFIG_FILE, check_loaded
from rnow_core.preflight.report import Project, Report, presented
from rnow_core.rollout.collect import one_rollout
from rnow_core.rollout.evaluate import EVAL_STEP
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.score import score_with_teachers
from rnow_core.track.clock import PhaseClock
from rnow_core.track.diskerrors import disk_errors
from rnow_core.track.events import Emit, Event
from rnow_core.track.run_folder import RUNS
from rnow_core.track.traces import Pieces, spread, trace_record, write_traces
from rnow_core.types import Prompt, ScoredRollout

TELL_EVERY = 10
ROWS = 3
"""Rows that are tried when nobody says which."""

BEFORE_TRAINING = EVAL_STEP
"""The step of the traces, and of the seeds: the same command samples the same rollouts."""


@dataclass(frozen=True)
class TrialRequest:
    """What the command line asked for.

    `rollouts`: of the row that `entry` names (None: 1), or without `entry` the rows from the first on (None: ROWS).
    `entry`: `4`, or `train.jsonl:4`.
    """

    project_dir: Path
    overrides: Sequence[str] = ()
    rollouts: int | None = None
    entry: str | None = None
    teacher: bool = True


@dataclass(frozen=True)
class Failure:
    """A rollout that could not be completed, and why."""

    file: str
    line: int
    sample: int
    message: str


@dataclass(frozen=True)
class Trial:
    """Trace records (`traces.trace_record`) in the order of rows and samples. `file`: where they are saved, None
    when no rollout was completed. `logs`: the folder of what tools, rewards and servers printed, None when they
    printed nothing.
    """

    rollouts: list[dict[str, Any]]
    failures: list[Failure]
    file: Path | None
    logs: Path | None
    engine: str


Engine = Literal["auto", "hf", "vllm"]
Chosen = Sequence[tuple[Prompt, int]]
"""Rows, each with the number of its rollout."""


def try_rollouts(request: TrialRequest, emit: Emit) -> Trial:
    """Sample rollouts with the project's student, tools and sandboxes, and score them.

    Only `runs/test-TIME/` is written: the rollouts, and what tools, rewards and servers printed.

    Raises:
        FindingsError: the project has errors; nothing was written.
        UsageError: there is no such row.
        RnowError: whatever else a user can act on.
    """
    project, plan = require_project(check_trial(request), emit)
    chosen = choose_rows(project, request)
    for change in project.loaded.changes:
        emit(Event("progress", {"message": f"{change.path}: {change.old} -> {change.new}"}))
    fixed = choose_fixed(project.loaded.config, plan)
    fixed = replace(fixed, placement=replace(fixed.placement, ranks=1))
    folder = _new_folder(project.folder)
    try:
        emit(Event("progress", {"message": f"loading the models ({fixed.engine}, {fixed.device})"}))
        rewards, built = load_parts(project, fixed, folder, plan["steps"], PhaseClock().phase)
        done = asyncio.run(_run(built, rewards, chosen, emit))
        records = [_record(item, project.renderer.pieces) for item in done if not isinstance(item, Failure)]
        file = folder / "rollouts" / f"step_{BEFORE_TRAINING:06d}.jsonl"
        if records:
            write_traces(file, records)
    finally:
        tidy(folder)
    failures = [item for item in done if isinstance(item, Failure)]
    logs = folder / "logs"
    return Trial(records, failures, file if records else None, logs if logs.is_dir() else None, fixed.engine)


def choose_rows(project: Project, request: TrialRequest) -> Chosen:
    """Several rollouts of the row that `entry` names, or one of each of the first rows."""
    if request.entry is None:
        return [(prompt, 0) for prompt in project.prompts[: request.rollouts or ROWS]]
    file, colon, number = request.entry.rpartition(":")
    if not number.isdecimal():
        raise UsageError(f"--entry takes a row number or FILE:LINE, got '{request.entry}'", "--entry 1")
    if colon:
        rows = [*project.prompts, *project.eval_prompts]
        found = [row for row in rows if row.line == int(number) and row.file in (file, Path(file).as_posix())]
        known = "data files: " + ", ".join(dict.fromkeys(row.file for row in rows))
    else:
        found = [row for row in project.prompts if row.index == int(number) - 1]
        known = f"there are {len(project.prompts)} training rows, counted from 1"
    if not found:
        raise UsageError(f"--entry {request.entry}: there is no such row", known)
    return [(found[0], sample) for sample in range(request.rollouts or 1)]


def check_trial(request: TrialRequest) -> Report:
    """What `validate` says of the project with the engine and teacher of this trial.

    Servers take longer to start than a few rollouts take: they are used only where the config asks for them, or
    where the run would have them and this process has not the memory for both models.
    """
    try:
        loaded = load_config(request.project_dir / CONFIG_FILE, request.overrides)
    except FindingsError as error:
        return Report(presented(error.findings, request.project_dir), {}, None)
    loaded = sampling_stage(loaded)
    if loaded.config.dataset_type == "sft":
        raise UsageError(
            "`rnow test` samples rollouts, and dataset_type: sft trains on given conversations",
            "rnow validate checks these",
        )

    def check(engine: Engine) -> Report:
        config = _for_trial(loaded.config, engine, request.teacher)
        return check_loaded(request.project_dir, replace(loaded, config=config))

    report = check(engine_of(loaded.config, has_gpu=False))
    plan = report.plan
    too_large = bool(plan) and plan["memory"]["total"] > plan["memory_available"]
    if too_large and engine_of(loaded.config, plan["device"] == "gpu") != plan["engine"]:
        return check("auto")
    return report


def _for_trial(config: Config, engine: Engine, teacher: bool) -> Config:
    changed: dict[str, Any] = {"rollout": config.rollout.model_copy(update={"engine": engine})}
    if not teacher:
        changed |= {"resources": config.resources.model_copy(update={"teacher_gpus": None}), "teacher": []}
    return config.model_copy(update=changed)


async def _run(
    built: Built, rewards: ProjectRewards, chosen: Chosen, emit: Emit
) -> list[ScoredRollout | Failure]:
    """All rollouts beside each other, then the teacher; everything is ended behind them."""
    parts = replace(built.training, rewards=rewards, signal=None)
    try:
        await built.engine.start(built.learner, _waiting(emit))
        async with parts.phase("rollout"):
            outcomes = await _all(parts, chosen, emit)
        scored = [item for item in outcomes if not isinstance(item, Failure)]
        if parts.teachers and scored:
            emit(Event("progress", {"message": "the teacher scores them"}))
            async with parts.phase("score"):
                scored = await score_with_teachers(scored, parts)
        remaining = iter(scored)
        return [item if isinstance(item, Failure) else next(remaining) for item in outcomes]
    finally:
        await rewards.close()
        await built.close()


async def _all(parts: RolloutParts, chosen: Chosen, emit: Emit) -> list[ScoredRollout | Failure]:
    """Each rollout or its failure, told as it ends; an error that is not of one rollout ends the others."""
    ended: Counter[str] = Counter()

    async def one(prompt: Prompt, sample: int) -> ScoredRollout | Failure:
        begun = time.perf_counter()
        outcome = await _rollout(prompt, sample, parts)
        ended["rollouts"] += 1
        what = outcome.message if isinstance(outcome, Failure) else outcome.rollout.stop_reason
        said = f"rollout {ended['rollouts']} of {len(chosen)}: {what}, {time.perf_counter() - begun:.1f} s"
        emit(Event("progress", {"message": said}))
        return outcome

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(prompt, sample)) for prompt, sample in chosen]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _rollout(prompt: Prompt, sample: int, parts: RolloutParts) -> ScoredRollout | Failure:
    try:
        return await one_rollout(prompt, sample, BEFORE_TRAINING, parts)
    except RolloutFailed as failure:
        return Failure(prompt.file, prompt.line, sample, failure.message)


def _record(scored: ScoredRollout, pieces: Pieces) -> dict[str, Any]:
    """A trace as a run writes it. Nothing was updated: the sampler's logprobs stand in for the learner's."""
    trajectory = scored.rollout.trajectory
    flags = trajectory.mask_T
    mu_N = [value for value, flag in zip(trajectory.mu_T, flags, strict=True) if flag]
    unknown: list[float | None] = [None] * len(flags)
    columns = {"old": spread(mu_N, flags), "advantage": unknown, "entropy": unknown}
    return {"step": BEFORE_TRAINING, **trace_record(scored, columns, pieces)}


def _new_folder(project: Path) -> Path:
    """`runs/test-20260131-120000`, with a number behind it where that is taken."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = [f"test-{stamp}", *(f"test-{stamp}-{number}" for number in range(2, 100))]
    runs = project / RUNS
    with disk_errors(runs):
        runs.mkdir(exist_ok=True)
        for name in names:
            with suppress(FileExistsError):
                (runs / name).mkdir()
                break
        for part in ("rollouts", "logs"):
            (runs / name / part).mkdir()
    return runs / name


def tidy(folder: Path) -> None:
    """Keep the rollouts and what somebody printed; published weights, empty logs and empty folders go."""
    shutil.rmtree(folder / "adapters", ignore_errors=True)
    for path in sorted(folder.rglob("*"), reverse=True):
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            elif path.stat().st_size == 0:
                path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _waiting(emit: Emit) -> Progress:
    """Progress as events; servers report every second, which is told every ten."""

    def progress(seconds: float, message: str) -> None:
        if int(seconds) % TELL_EVERY == 0:
            emit(Event("progress", {"seconds": round(seconds, 1), "message": message}))

    return progress

"""What `rnow eval` evaluates: a checkpoint of a run, or a project's student as it is before any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnow_core.config.check import check
from rnow_core.config.inputs import TeacherConfig
from rnow_core.config.load import LoadedConfig, load_config
from rnow_core.config.overrides import apply_overrides
from rnow_core.config.schema import Config
from rnow_core.config.source import Source
from rnow_core.config.stages import sampling_stage
from rnow_core.errors import FindingsError, UsageError
from rnow_core.preflight.check import CONFIG_FILE
from rnow_core.track.checkpoints import Checkpoint, Checkpoints
from rnow_core.track.run_folder import RUNS, read_json

BASE = "base"
"""The folder below runs/ for evaluations without a run."""

SHOWN = 10
"""Checkpoints that a message lists."""

CHANGEABLE = ("eval", "rollout", "resources", "sandbox", "seed")
"""Sections that may be overridden for a run: they change how it is evaluated, not what was trained."""


@dataclass(frozen=True)
class EvalRequest:
    """What the command line asked for.

    `run` None is the latest, `checkpoint` None its last; `without_run` evaluates no run at all. `base` and `teacher`
    say whether they are evaluated too. `file` None: the project's held-out rows; `samples` None: eval.group_size;
    `rewards`: instead of those that the rows name; `name`: of the results, None for one that says what they are.
    """

    project_dir: Path
    run: str | None = None
    checkpoint: int | None = None
    without_run: bool = False
    base: bool = True
    teacher: bool = True
    file: Path | None = None
    samples: int | None = None
    rewards: tuple[str, ...] = ()
    name: str | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Subject:
    """The config of what is evaluated, the folder that its evaluations lie below, and its checkpoint (None: base).

    `teachers` are all that the config has, also where this evaluation leaves them out.
    """

    loaded: LoadedConfig
    teachers: Sequence[TeacherConfig]
    folder: Path
    checkpoint: Checkpoint | None

    @property
    def evals(self) -> Path:
        """Where results go."""
        return self.folder / "evals"


def find_subject(request: EvalRequest) -> Subject:
    """The run, or the project, that a request names, with a config for its evaluation.

    Raises:
        UsageError: there is no such run or checkpoint, or nothing to evaluate on.
        FindingsError: the config has errors.
    """
    project = request.project_dir
    if request.without_run:
        if request.run is not None or request.checkpoint is not None:
            raise UsageError(
                "--base evaluates the student before any run", "leave out --base, or --run and --checkpoint"
            )
        loaded = sampling_stage(load_config(project / CONFIG_FILE, request.overrides))
        return Subject(_for_eval(loaded, request), loaded.config.teacher, project / RUNS / BASE, None)
    folder = _with_config(_run_folder(project, request.run))
    checkpoint = _checkpoint(folder, request.checkpoint)
    loaded = _stored(project, folder, request.overrides)
    return Subject(_for_eval(loaded, request), loaded.config.teacher, folder, checkpoint)


def _run_folder(project: Path, name: str | None) -> Path:
    """The named run, or the one that was started last."""
    runs = project / RUNS
    found = [path for path in sorted(runs.glob("*")) if (path / "config.json").is_file()]
    names = ", ".join(path.name for path in found)
    if name is not None:
        if runs / name not in found:
            raise UsageError(f"there is no run {name} in {runs}", f"runs: {names}" if names else "rnow run")
        return runs / name
    if not found:
        raise UsageError(
            f"{runs}: there is no run yet", "for the student before any training: rnow eval --base"
        )
    return max(found, key=lambda path: ((path / "config.json").stat().st_mtime_ns, path.name))


def _with_config(run: Path) -> Path:
    """The run itself, or the last of its stages that has a checkpoint."""
    stages = [path for path in sorted(run.glob("stages/*")) if (path / "config.json").is_file()]
    trained = [path for path in stages if Checkpoints(path / "checkpoints").latest()]
    return trained[-1] if trained else run


def _checkpoint(folder: Path, step: int | None) -> Checkpoint:
    checkpoints = Checkpoints(folder / "checkpoints")
    if step is not None and step not in [found.step for found in checkpoints.all()]:
        known = ", ".join(str(found.step) for found in checkpoints.all()[-SHOWN:]) or "none"
        raise UsageError(f"{folder}: there is no checkpoint of step {step}", f"the last ones are: {known}")
    found = checkpoints.latest() if step is None else checkpoints.load(step)
    if found is None:
        raise UsageError(f"{folder} has no checkpoint yet", "for the student before training: --base")
    return found


def _stored(project: Path, folder: Path, overrides: Sequence[str]) -> LoadedConfig:
    """The config that a run was started with, and over it what may be changed for an evaluation."""
    file = folder / "config.json"
    stored: Any = (read_json(file) or {}).get("config")
    if not isinstance(stored, Mapping):
        raise UsageError(f"{file}: missing or not valid JSON", "name another run: --run")
    for override in overrides:
        if override.partition("=")[0].split(".")[0] not in CHANGEABLE:
            raise UsageError(
                f"{override}: a run is evaluated with the models that it was started with",
                f"keys that may be changed: {', '.join(CHANGEABLE)}",
            )
    changed = apply_overrides(dict(stored), overrides)
    checked = check(changed.data, project)
    source = Source(str(file), changed.data, {}, overridden=frozenset(changed.paths))
    problems = [problem for problem in (*changed.problems, *checked.problems) if problem.severity == "error"]
    if problems or checked.config is None:
        raise FindingsError([source.finding(problem) for problem in problems])
    return LoadedConfig(checked.config, project / CONFIG_FILE, (), (), source)


def _for_eval(loaded: LoadedConfig, request: EvalRequest) -> LoadedConfig:
    """The config with the rows, samples and models of this evaluation."""
    config = loaded.config
    samples = request.samples or config.eval.group_size
    wanted: dict[str, Any] = {
        "group_size": samples,
        "pass_at": sorted({k for k in config.eval.pass_at if k <= samples} | {samples}),
    }
    changed: dict[str, Any] = {"teacher": _teachers(config, request)}
    if request.file is not None:
        wanted |= {"file": [_relative(request.file, request.project_dir)], "name": None}
        changed["data"] = config.data.model_copy(update={"val_file": None, "val_split": None})
    changed["eval"] = config.eval.model_copy(update=wanted)
    if config.dataset_type == "sft":
        changed |= _as_sampled(config, wanted.get("file"))
    return replace(loaded, config=config.model_copy(update=changed), findings=())


def _teachers(config: Config, request: EvalRequest) -> list[Any]:
    """The teachers, the first of which samples; none where the request leaves them out."""
    if not request.teacher or config.dataset_type == "sft":
        return []
    first = [teacher.model_copy(update={"eval_baseline": True}) for teacher in config.teacher[:1]]
    return [*first, *config.teacher[1:]]


def _as_sampled(config: Config, file: list[str] | None) -> dict[str, Any]:
    """A run on conversations has no rows that a student answers: the file of problems stands in for them."""
    if file is None:
        raise UsageError(
            "this run trained on conversations, which have no problems to solve",
            "name a file of problems with rewards: --file problems.jsonl",
        )
    data = {"train_file": file, "val_file": None, "val_split": None}
    return {"dataset_type": "distill", "data": config.data.model_copy(update=data)}


def _relative(file: Path, project: Path) -> str:
    """As data files are named: relative to the project where it lies inside."""
    whole = file.resolve()
    root = project.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)

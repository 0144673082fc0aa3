"""What is evaluated with what: checked, named, and kept apart from every other evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rnow_core.config.schema import Config
from rnow_core.env.load import REWARDS_FILE
from rnow_core.env.rewards import known_rewards, require_verifiers
from rnow_core.env.verifiers.table import BUILT_IN
from rnow_core.errors import Finding, FindingsError, UsageError, WouldOverwrite
from rnow_core.jobs.eval_report import POLICIES
from rnow_core.jobs.eval_subject import EvalRequest, Subject, find_subject
from rnow_core.jobs.setup import require_project
from rnow_core.preflight.check import check_loaded
from rnow_core.preflight.report import Project
from rnow_core.preflight.verifiers import answer_problem
from rnow_core.track.atomic import write_json_atomic
from rnow_core.track.events import Emit, Event
from rnow_core.track.metrics import MetricsFile, read_metrics
from rnow_core.track.run_folder import read_json
from rnow_core.types import Prompt

ORDER = ("base", "student", "teacher")
"""The learner begins as the base and then takes the checkpoint; the teacher comes last."""

SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is ready to go on: what is sampled, and where it is kept.

    `identity` is all that a sample follows from: results of another identity are never mixed with these.
    """

    subject: Subject
    project: Project
    plan: Mapping[str, Any]
    prompts: Sequence[Prompt]
    policies: tuple[str, ...]
    name: str
    identity: Mapping[str, Any]

    @property
    def config(self) -> Config:
        """The config of the evaluation."""
        return self.project.loaded.config

    @property
    def file(self) -> Path:
        """The table as JSON."""
        return self.subject.evals / f"{self.name}.json"

    @property
    def problems(self) -> Path:
        """One line a policy and problem."""
        return self.subject.evals / f"{self.name}.jsonl"

    @property
    def work(self) -> Path:
        """Logs, and the adapters that servers load."""
        return self.subject.evals / self.name

    def todo(self) -> dict[str, list[Prompt]]:
        """What each policy has not answered yet, in the order of the policies' turns."""
        done = {(row["policy"], row["problem"]) for row in read_metrics(self.problems)}
        left = {
            policy: [prompt for prompt in self.prompts if (policy, prompt.index) not in done]
            for policy in ORDER
            if policy in self.policies
        }
        return {policy: prompts for policy, prompts in left.items() if prompts}


def prepare_evaluation(request: EvalRequest, emit: Emit) -> Evaluation:
    """Find, check and name what is evaluated; nothing is written."""
    subject = find_subject(request)
    report = check_loaded(request.project_dir, subject.loaded)
    if subject.loaded.config.data.train_file == subject.loaded.config.eval.file:
        report = replace(report, findings=[found for found in report.findings if found.code != "RN223"])
    project, plan = require_project(report, emit)
    prompts = _with_rewards(project, request, emit)
    names = {name for prompt in prompts for name in prompt.rewards}
    project = replace(project, eval_prompts=prompts, rewards=known_rewards(project.folder, names))
    _require_rewards(project, names)
    policies = ["base"] if subject.checkpoint is None or request.base else []
    policies += ["student"] if subject.checkpoint else []
    policies += ["teacher"] if project.loaded.config.teacher else []
    identity = _identity(subject, project)
    name = request.name or _name(subject, project.loaded.config)
    if name != Path(name).name or name.startswith("."):
        raise UsageError(f"--name {name!r} is not a plain file name", "use letters, digits, `-` and `_`")
    shown = tuple(policy for policy in POLICIES if policy in policies)
    return Evaluation(subject, project, plan, prompts, shown, name, identity)


def _with_rewards(project: Project, request: EvalRequest, emit: Emit) -> list[Prompt]:
    """The held-out rows that can be judged, with the rewards that the request names in place of theirs."""
    rows = list(project.eval_prompts)
    if not rows:
        raise UsageError(
            "there is nothing to evaluate on: the config has neither eval.file nor data.val_file",
            "name a file of problems: --file problems.jsonl",
        )
    if request.rewards:
        return [replace(prompt, rewards=request.rewards) for prompt in rows]
    judged = [prompt for prompt in rows if prompt.rewards]
    if not judged:
        built_in = ", ".join(BUILT_IN)
        raise UsageError(
            f"no row of {rows[0].file} names a reward", f"--reward NAME, of rewards.py or one of: {built_in}"
        )
    if len(judged) < len(rows):
        message = f"{len(rows) - len(judged)} of {len(rows)} rows name no reward and are left out"
        emit(Event("warning", {"message": message, "hint": "--reward NAME judges every row by that one"}))
    return judged


def _require_rewards(project: Project, names: set[str]) -> None:
    """UsageError for a reward that nobody has, EnvironmentMissing for one without its package, and FindingsError for
    rows that a built-in one cannot judge.
    """
    unknown = sorted(names - project.rewards.keys())
    if unknown:
        known = ", ".join({**project.rewards, **BUILT_IN})
        raise UsageError(f"there is no reward `{unknown[0]}`", f"there are: {known}")
    require_verifiers(names, project.rewards)
    findings = [
        Finding("RN233", "error", f"`{name}`: {problem}", "", prompt.file, prompt.line, path="metadata")
        for prompt in project.eval_prompts
        for name in prompt.rewards
        if project.rewards[name] is BUILT_IN.get(name) and (problem := answer_problem(prompt, name))
    ]
    if findings:
        raise FindingsError(findings)


def _identity(subject: Subject, project: Project) -> dict[str, Any]:
    config = project.loaded.config
    files = [*dict.fromkeys(prompt.file for prompt in project.eval_prompts), REWARDS_FILE]
    contexts = [teacher.context_file for teacher in subject.teachers if teacher.context_file]
    return {
        "checkpoint": subject.checkpoint.step if subject.checkpoint else None,
        "model": config.model.model_dump(mode="json"),
        "teacher": [
            teacher.model_dump(mode="json", exclude={"eval_baseline"}) for teacher in subject.teachers
        ],
        "files": {name: _digest(project.folder / name) for name in (*files, *contexts)},
        "rows": len(project.eval_prompts),
        "rewards": sorted({name for prompt in project.eval_prompts for name in prompt.rewards}),
        "samples": config.eval.group_size,
        "max_tokens": config.eval.max_tokens or config.rollout.max_tokens,
        "rollout": config.rollout.model_dump(mode="json", exclude={"engine", "url", "max_tokens"}),
        "seed": config.seed,
    }


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _name(subject: Subject, config: Config) -> str:
    """What is evaluated, on what, with how many samples."""
    step = f"step_{subject.checkpoint.step:06d}-" if subject.checkpoint else ""
    return f"{step}{Path(config.eval_name).name}-k{config.eval.group_size}"


def claim(evaluation: Evaluation) -> None:
    """Write down what this evaluation is, before its first sample.

    Raises:
        WouldOverwrite: results of another one have its name.
    """
    before = read_json(evaluation.file)
    if before is None:
        if evaluation.problems.exists():
            raise WouldOverwrite(
                f"{evaluation.problems} is there, and the .json that says what it is of is not",
                "choose another name: --name NAME, or remove the file",
            )
        write_json_atomic(
            evaluation.file, {"schema": SCHEMA, "state": "running", "identity": evaluation.identity}
        )
        _borrow(evaluation)
        return
    differing = _differing(evaluation.identity, before)
    if differing:
        raise WouldOverwrite(
            f"{evaluation.file} has results with another {', '.join(differing)}, and nothing was written",
            "choose another name: --name NAME, or remove the file and its .jsonl",
        )


def _differing(identity: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """What distinguishes an evaluation from the one in a file."""
    known = saved.get("identity", {})
    return [key for key, value in identity.items() if known.get(key) != value]


def _borrow(evaluation: Evaluation) -> None:
    """Base and teacher answer the same problems in the same way, whichever checkpoint they are compared with."""
    rows: dict[tuple[str, int], Mapping[str, Any]] = {}
    for file in evaluation.subject.evals.glob("*.json"):
        saved = read_json(file) if file != evaluation.file else None
        if saved is not None and set(_differing(evaluation.identity, saved)) <= {"checkpoint"}:
            rows |= {(row["policy"], row["problem"]): row for row in _rows_of_others(file)}
    if rows:
        borrowed = MetricsFile(evaluation.problems)
        for row in rows.values():
            borrowed.append(row)
        borrowed.close()


def _rows_of_others(file: Path) -> Iterator[Mapping[str, Any]]:
    rows = read_metrics(file.with_name(f"{file.name}l"))
    return (row for row in rows if row.get("policy") in ("base", "teacher"))

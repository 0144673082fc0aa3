"""`rnow eval`: the student against its base and its teacher on problems, k samples of each, in one table."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from rnow_core.build.assemble import Built
from rnow_core.build.fixed import choose_fixed
from rnow_core.env.rewards import ProjectRewards
from rnow_core.errors import Interrupted
from rnow_core.jobs.eval_report import figures, problem_row
from rnow_core.jobs.eval_subject import EvalRequest
from rnow_core.jobs.evaluation import SCHEMA, Evaluation, claim, prepare_evaluation
from rnow_core.jobs.job import told_seldom
from rnow_core.jobs.on_policy import load_parts, scoring_of
from rnow_core.jobs.trial import tidy
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.problems import ProblemSamples, sample_problems
from rnow_core.stop import StopSignal
from rnow_core.track.atomic import write_json_atomic
from rnow_core.track.clock import PhaseClock
from rnow_core.track.diskerrors import disk_errors
from rnow_core.track.events import Emit, Event
from rnow_core.track.lock import FileLock
from rnow_core.track.metrics import MetricsFile, read_metrics
from rnow_core.train.between_steps import load_checkpoint
from rnow_core.types import Prompt

LOCK = "lock"

IN_FLIGHT = 512
"""Rollouts that are under way at once, unless eval.batch_size says how many problems are."""


def evaluate(request: EvalRequest, emit: Emit, stop: StopSignal) -> dict[str, Any]:
    """Sample what is not sampled yet; the table, which is saved as `evals/NAME.json` below the run.

    Raises:
        FindingsError: the project, its rows or rewards have errors.
        UsageError: there is no such run, checkpoint or reward, or nothing to evaluate on.
        WouldOverwrite: other results have this name, or another process works on them.
        Interrupted: `stop` was requested; what was finished is saved.
        RnowError: whatever else a user can act on; the same command goes on.
    """
    evaluation = prepare_evaluation(request, emit)
    with disk_errors(evaluation.work):
        evaluation.work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(evaluation.work / LOCK)
    try:
        claim(evaluation)
        todo = evaluation.todo()
        if todo:
            _sample(evaluation, todo, emit, stop)
        table = _table(evaluation)
        write_json_atomic(evaluation.file, table)
    finally:
        (evaluation.work / LOCK).unlink(missing_ok=True)
        lock.release()
        tidy(evaluation.work)
    return table


def _sample(
    evaluation: Evaluation, todo: Mapping[str, Sequence[Prompt]], emit: Emit, stop: StopSignal
) -> None:
    """Load the models and let each policy answer what it has not answered."""
    fixed = choose_fixed(evaluation.config, evaluation.plan)
    fixed = replace(fixed, placement=replace(fixed.placement, ranks=1))
    emit(Event("progress", {"message": f"loading the models ({fixed.engine}, {fixed.device})"}))
    steps = evaluation.plan["steps"]
    rewards, built = load_parts(evaluation.project, fixed, evaluation.work, steps, PhaseClock().phase)
    with closing(MetricsFile(evaluation.problems)) as file:
        asyncio.run(_Session(evaluation, built, rewards, file, emit, stop).run(todo))


@dataclass(frozen=True)
class _Session:
    """One session of sampling."""

    evaluation: Evaluation
    built: Built
    rewards: ProjectRewards
    file: MetricsFile
    emit: Emit
    stop: StopSignal

    async def run(self, todo: Mapping[str, Sequence[Prompt]]) -> None:
        """All policies, one after the other; everything is ended behind them."""
        built = self.built
        try:
            await built.tools.start(self.evaluation.prompts)
            await built.engine.start(built.learner, told_seldom(self.emit))
            for policy, prompts in todo.items():
                await self._policy(policy, prompts)
        finally:
            await self.rewards.close()
            await built.close()

    async def _policy(self, policy: str, prompts: Sequence[Prompt]) -> None:
        config, done = self.evaluation.config, len(self.evaluation.prompts) - len(prompts)
        progress = _Progress(self.emit, policy, done, len(self.evaluation.prompts))

        async def keep(result: ProblemSamples) -> None:
            self.file.append(problem_row(policy, result, config.eval_name))
            progress.one()

        samples = config.eval.group_size
        at_once = config.eval.batch_size or max(1, IN_FLIGHT // samples)
        parts = await self._parts(policy)
        await sample_problems(prompts, samples, at_once, parts, keep, lambda: not self.stop.requested)
        if self.stop.requested:
            raise Interrupted(f"stopped: {progress.said()}", "the same command goes on from here")

    async def _parts(self, policy: str) -> RolloutParts:
        """Who samples: the learner's weights as they are (the base, also the checkpoint of step 0), those of a later
        checkpoint, or the teacher.
        """
        built = self.built
        if policy == "teacher" and built.baseline is not None:
            return replace(built.baseline, rewards=self.rewards)
        parts = replace(built.evaluation, rewards=self.rewards, teachers={})
        checkpoint = self.evaluation.subject.checkpoint
        if policy == "student" and checkpoint is not None and checkpoint.step > 0:
            load_checkpoint(built.learner, checkpoint)
            version = built.learner.publish(built.engine.adapters)
            async with parts.phase("publish"):
                await parts.sampler.use(version)
        return parts


class _Progress:
    """Tells how far a policy is, every now and then."""

    def __init__(self, emit: Emit, policy: str, done: int, total: int) -> None:
        self._emit, self._policy, self._done, self._total = emit, policy, done, total
        self._every = max(1, total // 20)

    def one(self) -> None:
        """One problem more is finished."""
        self._done += 1
        if self._done % self._every == 0 or self._done == self._total:
            self._emit(Event("progress", {"message": self.said()}))

    def said(self) -> str:
        """`student: 3 of 20 problems`."""
        return f"{self._policy}: {self._done} of {self._total} problems"


def _table(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of all that is sampled, and what they are of."""
    config, subject = evaluation.config, evaluation.subject
    wanted = {prompt.index for prompt in evaluation.prompts}
    rows = [row for row in read_metrics(evaluation.problems) if row["problem"] in wanted]
    scoring = scoring_of(config)
    return {
        "schema": SCHEMA,
        "state": "finished",
        "name": evaluation.name,
        "run": subject.folder.name if subject.checkpoint else None,
        "checkpoint": str(subject.checkpoint.path) if subject.checkpoint else None,
        "step": subject.checkpoint.step if subject.checkpoint else None,
        "file": str(evaluation.file),
        "problems_file": str(evaluation.problems),
        "samples": scoring.samples,
        "pass_at": list(scoring.pass_at),
        "pass_threshold": scoring.threshold,
        **figures(rows, scoring),
        "identity": dict(evaluation.identity),
    }

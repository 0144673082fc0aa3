"""Config -> concrete parts. This package is the only place that names concrete classes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rnow_core.build.contexts import contexts_of, name_of
from rnow_core.build.engine import Engine
from rnow_core.build.fixed import Fixed
from rnow_core.build.local import LocalEngine
from rnow_core.build.phases import STUDENT_SAMPLES, TEACHER_SAMPLES, Clock, make_phases
from rnow_core.build.signals import give_head, wish_of
from rnow_core.build.tools import RunTools
from rnow_core.build.trainer import Trainer, build_trainer
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.models.device import DeviceThread
from rnow_core.models.seams import Learner
from rnow_core.rollout.parts import RewardScorer, RolloutParts
from rnow_core.types import SamplingParams


@dataclass(frozen=True)
class Built:
    """The parts of a run. `baseline` samples from the teacher, where the config asks for its accuracy."""

    trainer: Trainer
    engine: Engine
    tools: RunTools
    training: RolloutParts
    evaluation: RolloutParts
    baseline: RolloutParts | None
    half_precision: bool
    async_level: int

    @property
    def device(self) -> DeviceThread:
        """The thread that the learner computes in."""
        return self.trainer.device

    @property
    def learner(self) -> Learner:
        """Holds the student's weights."""
        return self.trainer.learner

    async def close(self) -> None:
        """Free tools, samplers and teachers, then the other ranks and the thread that the learner computes in."""
        try:
            await self.tools.close()
            await self.engine.close()
        finally:
            await self.trainer.close()


def build(
    config: Config,
    fixed: Fixed,
    *,
    project_dir: Path,
    run_dir: Path,
    renderer: Renderer,
    context_window: int,
    rewards: RewardScorer | None,
    tools: RunTools,
    total_steps: int,
    clock: Clock,
    teacher_windows: Mapping[str, int] | None = None,
) -> Built:
    """Start the training ranks, load the models and put the parts together. Called outside an event loop.

    `teacher_windows`: the tokens of the longest sequence that each teacher with a context is to score; they may be more
    than the `context_window` of conversations.
    """
    windows, contexts = dict(teacher_windows or {}), contexts_of(config, project_dir)
    trainer = build_trainer(config, fixed, project_dir=project_dir, run_dir=run_dir, total_steps=total_steps)
    student = trainer.student
    try:
        scored_window = max([context_window, *windows.values()])
        engine = _engine(config, fixed, project_dir, run_dir, context_window, scored_window, trainer)
    except BaseException:
        asyncio.run(trainer.ranks.close())
        raise
    give_head(trainer.learner, engine.teacher_head)
    training = RolloutParts(
        renderer=renderer,
        sampler=engine.sampler,
        teachers=engine.teachers,
        rewards=None if config.algorithm.skip_verification else rewards,
        params=_sampling(config, renderer),
        context_window=engine.context_window,
        seed=config.seed,
        template_options=template_options(config.rollout.reasoning_mode),
        contexts=contexts,
        teacher_windows={
            name: room - context_window + engine.context_window for name, room in windows.items()
        },
        agent=tools.agent,
        toolbox=tools.toolbox,
        signal=wish_of(config, renderer, student),
        deadline=config.rollout.deadline,
        max_staleness=fixed.placement.async_level,
        phase=make_phases(clock, engine.take_turn, STUDENT_SAMPLES),
    )
    evaluation = _for_evaluation(config, training, rewards)
    return Built(
        trainer=trainer,
        engine=engine,
        tools=tools,
        training=training,
        evaluation=evaluation,
        baseline=_baseline(config, evaluation, engine, clock),
        half_precision=student.half_precision,
        async_level=fixed.placement.async_level,
    )


def _sampling(config: Config, renderer: Renderer) -> SamplingParams:
    return SamplingParams(
        max_tokens=config.rollout.max_tokens,
        stop_ids=renderer.stop_ids,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
    )


def _for_evaluation(config: Config, training: RolloutParts, rewards: RewardScorer | None) -> RolloutParts:
    """The parts of training with rewards always, replies of their own length, and teachers that give logprobs only."""
    params = replace(training.params, max_tokens=config.eval.max_tokens or config.rollout.max_tokens)
    return replace(training, rewards=rewards, params=params, signal=None)


def _baseline(config: Config, evaluation: RolloutParts, engine: Engine, clock: Clock) -> RolloutParts | None:
    """The evaluation with the teacher as the sampler, its context in the prompts, where the config asks for it."""
    if engine.baseline is None:
        return None
    phase = make_phases(clock, engine.take_turn, TEACHER_SAMPLES)
    window = evaluation.teacher_windows.get(name_of(config.teacher[0]), evaluation.context_window)
    return replace(
        evaluation,
        sampler=engine.baseline,
        teachers={},
        phase=phase,
        teacher_samples=True,
        context_window=max(window, evaluation.context_window),
    )


def _engine(
    config: Config,
    fixed: Fixed,
    project_dir: Path,
    run_dir: Path,
    context_window: int,
    scored_window: int,
    trainer: Trainer,
) -> Engine:
    if fixed.engine == "hf":
        return LocalEngine(
            config,
            fixed,
            project_dir=project_dir,
            context_window=context_window,
            student=trainer.student,
            device=trainer.device,
            average=trainer.learner.average,
        )
    from rnow_core.build.served import ServedEngine

    return ServedEngine(
        config,
        fixed,
        project_dir=project_dir,
        run_dir=run_dir,
        context_window=context_window,
        scored_window=scored_window,
        student=trainer.student,
        device=trainer.device,
        average=trainer.learner.average,
    )

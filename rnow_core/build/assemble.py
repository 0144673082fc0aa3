"""Config -> concrete parts. This package is the only place that names concrete classes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from rnow_core.build.engine import Engine
from rnow_core.build.fixed import Fixed
from rnow_core.build.learner import announce, load_student_of, make_learner
from rnow_core.build.local import LocalEngine
from rnow_core.build.phases import STUDENT_SAMPLES, TEACHER_SAMPLES, Clock, make_phases
from rnow_core.build.tools import RunTools
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread, device_named, use_device
from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.rank_processes import start_ranks
from rnow_core.models.ranks import OneRank
from rnow_core.rollout.parts import RewardScorer, RolloutParts
from rnow_core.types import SamplingParams


@dataclass(frozen=True)
class Built:
    """The parts of a run. `baseline` samples from the teacher, where the config asks for its accuracy."""

    device: DeviceThread
    ranks: OneRank
    learner: HFLearner
    engine: Engine
    tools: RunTools
    training: RolloutParts
    evaluation: RolloutParts
    baseline: RolloutParts | None
    half_precision: bool
    async_level: int

    async def close(self) -> None:
        """Free tools, samplers and teachers, then the other ranks and the thread that the learner computes in."""
        try:
            await self.tools.close()
            await self.engine.close()
        finally:
            await self.ranks.close()
            self.device.close()


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
) -> Built:
    """Start the training ranks, load the models and put the parts together. Called outside an event loop."""
    placement = fixed.placement
    ranks = start_ranks(placement.ranks, gpus=placement.trainer, log_folder=run_dir / "logs")
    try:
        announce(ranks, config, fixed, project_dir, total_steps)
        device = DeviceThread(fixed.threads)
        device.call(use_device, device_named(fixed.device))
        student = device.call(load_student_of, config, fixed, project_dir)
        learner = make_learner(config, fixed, student, device, total_steps, ranks)
        engine = _engine(config, fixed, project_dir, run_dir, context_window, student, device)
    except BaseException:
        asyncio.run(ranks.close())
        raise
    training = RolloutParts(
        renderer=renderer,
        sampler=engine.sampler,
        teachers=engine.teachers,
        rewards=None if config.algorithm.skip_verification else rewards,
        params=_sampling(config, renderer),
        context_window=engine.context_window,
        seed=config.seed,
        template_options=template_options(config.rollout.reasoning_mode),
        agent=tools.agent,
        toolbox=tools.toolbox,
        deadline=config.rollout.deadline,
        max_staleness=placement.async_level,
        phase=make_phases(clock, engine.take_turn, STUDENT_SAMPLES),
    )
    eval_tokens = config.eval.max_tokens or config.rollout.max_tokens
    evaluation = replace(training, rewards=rewards, params=replace(training.params, max_tokens=eval_tokens))
    return Built(
        device=device,
        ranks=ranks,
        learner=learner,
        engine=engine,
        tools=tools,
        training=training,
        evaluation=evaluation,
        baseline=_baseline(evaluation, engine, clock),
        half_precision=student.half_precision,
        async_level=placement.async_level,
    )


def _sampling(config: Config, renderer: Renderer) -> SamplingParams:
    return SamplingParams(
        max_tokens=config.rollout.max_tokens,
        stop_ids=renderer.stop_ids,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
    )


def _baseline(evaluation: RolloutParts, engine: Engine, clock: Clock) -> RolloutParts | None:
    """The evaluation with the teacher as the sampler, where the config asks for it."""
    if engine.baseline is None:
        return None
    phase = make_phases(clock, engine.take_turn, TEACHER_SAMPLES)
    return replace(evaluation, sampler=engine.baseline, teachers={}, phase=phase)


def _engine(
    config: Config,
    fixed: Fixed,
    project_dir: Path,
    run_dir: Path,
    context_window: int,
    student: CausalLM,
    device: DeviceThread,
) -> Engine:
    if fixed.engine == "hf":
        return LocalEngine(
            config,
            fixed,
            project_dir=project_dir,
            context_window=context_window,
            student=student,
            device=device,
        )
    from rnow_core.build.served import ServedEngine

    return ServedEngine(
        config,
        fixed,
        project_dir=project_dir,
        run_dir=run_dir,
        context_window=context_window,
        student=student,
        device=device,
    )

"""Config -> concrete parts. This package is the only place that names concrete classes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from rnow_core.build.engine import Engine
from rnow_core.build.fixed import Fixed
from rnow_core.build.learner import load_student_of, make_learner
from rnow_core.build.local import LocalEngine
from rnow_core.config.schema import Config
from rnow_core.data.renderer import Renderer, template_options
from rnow_core.models.causal_lm import CausalLM
from rnow_core.models.device import DeviceThread
from rnow_core.models.hf_learner import HFLearner
from rnow_core.rollout.parts import RewardScorer, RolloutParts
from rnow_core.types import SamplingParams


@dataclass(frozen=True)
class Built:
    """The parts of a run. `baseline` samples from the teacher, where the config asks for its accuracy."""

    device: DeviceThread
    learner: HFLearner
    engine: Engine
    training: RolloutParts
    evaluation: RolloutParts
    baseline: RolloutParts | None
    half_precision: bool

    async def close(self) -> None:
        """Free samplers and teachers, then the thread that the learner computes in."""
        await self.engine.close()
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
    total_steps: int,
    phase: Callable[[str], AbstractContextManager[object]],
) -> Built:
    """Load the models and put the parts together."""
    device = DeviceThread(fixed.threads)
    student = device.call(load_student_of, config, fixed, project_dir)
    engine = _engine(config, fixed, project_dir, run_dir, context_window, student, device)
    params = SamplingParams(
        max_tokens=config.rollout.max_tokens,
        stop_ids=renderer.stop_ids,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
    )
    training = RolloutParts(
        renderer=renderer,
        sampler=engine.sampler,
        teachers=engine.teachers,
        rewards=None if config.algorithm.skip_verification else rewards,
        params=params,
        context_window=engine.context_window,
        seed=config.seed,
        template_options=template_options(config.rollout.reasoning_mode),
        phase=phase,
    )
    eval_params = replace(params, max_tokens=config.eval.max_tokens or params.max_tokens)
    evaluation = replace(training, rewards=rewards, params=eval_params)
    return Built(
        device=device,
        learner=make_learner(config, fixed, student, device, total_steps),
        engine=engine,
        training=training,
        evaluation=evaluation,
        baseline=replace(evaluation, sampler=engine.baseline, teachers={}) if engine.baseline else None,
        half_precision=student.half_precision,
    )


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

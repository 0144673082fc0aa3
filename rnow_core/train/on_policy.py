"""The loop for `dataset_type: distill` and `rl`: the student samples, the teacher scores, the student learns.

What is left to others: how sampling and scoring work (rollout/), what the loss is (algo/), what a run looks like on
disk (track/), and which parts there are (build.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from rnow_core.data.batches import PromptBatches
from rnow_core.models.device import DeviceThread
from rnow_core.models.seams import Learner
from rnow_core.rollout.collect import Collected, collect
from rnow_core.rollout.evaluate import eval_metrics, evaluate
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.probe import probe
from rnow_core.stop import StopSignal
from rnow_core.track.aggregate import mismatch_kl
from rnow_core.train.ahead import StepRollouts
from rnow_core.train.alarm import check_mismatch
from rnow_core.train.batch import to_batch
from rnow_core.train.between_steps import due, stop_if_requested
from rnow_core.train.record import RunRecord
from rnow_core.types import Prompt


@dataclass(frozen=True)
class EvalPlan:
    """What is evaluated, and how. `every` is None for before and after the run only.

    `name` stands in metrics for rows that name no `env`; `baseline` samples from the teacher.
    """

    name: str
    prompts: Sequence[Prompt]
    group_size: int
    batch_size: int | None
    every: int | None
    parts: RolloutParts
    baseline: RolloutParts | None


@dataclass(frozen=True)
class OnPolicyRun:
    """The parts and settings of a run. `adapters` is None where the sampler shares the learner's weights.

    With `async_level` 1 a step is sampled while the one before it trains.
    """

    prompts: PromptBatches
    group_size: int
    total_steps: int
    save_every: int
    mask_truncated: bool
    parts: RolloutParts
    learner: Learner
    device: DeviceThread
    adapters: Path | None
    evaluation: EvalPlan | None
    record: RunRecord
    stop: StopSignal
    watch_mismatch: bool
    async_level: int = 0


async def train_on_policy(run: OnPolicyRun, first_step: int) -> None:
    """Train from `first_step` to the end, evaluating and saving on the way; the last step is always saved.

    Raises:
        Interrupted: the user asked to stop; the finished step is saved.
        RunFailed: rollouts, update or the mismatch alarm say that going on makes no sense.
    """

    def collect_step(step: int) -> Awaitable[Collected]:
        return collect(run.prompts.batch(step), run.group_size, step, run.parts)

    rollouts = StepRollouts(collect_step, last_step=run.total_steps, ahead=run.async_level > 0)
    try:
        for step in range(first_step, run.total_steps + 1):
            stop_if_requested(run, step - 1)
            await train_step(run, step, rollouts)
            last = step == run.total_steps
            if run.evaluation and (last or due(step, run.evaluation.every)):
                await evaluate_student(run, run.evaluation, step)
            if last or due(step, run.save_every):
                run.record.save(step, run.learner)
    finally:
        await rollouts.close()


async def train_step(run: OnPolicyRun, step: int, rollouts: StepRollouts) -> None:
    """One step: sample, score, update, publish, write down."""
    collected = await rollouts.take(step)
    batch = to_batch(collected.rollouts, mask_truncated=run.mask_truncated)
    async with run.parts.phase("train"):
        update = await run.device.run(run.learner.update, batch, step)
        version = await run.device.run(run.learner.publish, run.adapters)
    async with run.parts.phase("publish"):
        await run.parts.sampler.use(version)
    probed = await probed_mismatch(run, step) if run.async_level and run.watch_mismatch else None
    metrics = run.record.step(step, collected, batch, update, probed)
    if run.watch_mismatch:
        check_mismatch(step, metrics["mismatch_kl"], run.record.warn)


async def probed_mismatch(run: OnPolicyRun, step: int) -> float:
    """`mismatch_kl` of the version just published, on a few short replies of its own.

    The batch's rollouts are older than the learner here, so that their gap says nothing about correctness.
    """
    requests, sampled = await probe(run.prompts.batch(step), step, run.parts)
    trained = await run.device.run(run.learner.logprobs, requests)
    return mismatch_kl(np.array(list(chain.from_iterable(trained))), np.array(sampled))


async def evaluate_student(run: OnPolicyRun, plan: EvalPlan, step: int) -> None:
    """Held-out rewards and teacher KL of the student as it is now."""
    rollouts = await evaluate(plan.prompts, plan.group_size, plan.batch_size, plan.parts)
    run.record.evaluation(step, eval_metrics(rollouts, plan.name))


async def evaluate_baseline(run: OnPolicyRun, plan: EvalPlan) -> None:
    """Before step 1: the teacher's held-out reward, the student's, and the gap between them."""
    if plan.baseline is None:
        return
    rollouts = await evaluate(plan.prompts, plan.group_size, plan.batch_size, plan.baseline)
    teacher = eval_metrics(rollouts, plan.name)
    student = run.record.evaluations(0)
    metrics: dict[str, float] = {}
    for name, value in teacher.items():
        if name.endswith("/reward/mean"):
            env = name.removesuffix("/reward/mean")
            metrics[f"{env}/baseline_student/avg"] = student[name]
            metrics[f"{env}/baseline_teacher/avg"] = value
            metrics[f"{env}/baseline_diff"] = value - student[name]
    run.record.evaluation(0, metrics)

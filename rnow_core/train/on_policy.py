"""The loop for `dataset_type: distill` and `rl`: the student samples, the teacher scores, the student learns.

What is left to others: how sampling and scoring work (rollout/), what the loss is (algo/), what a run looks like on
disk (track/), and which parts there are (build.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from rnow_core.config.stability import StabilityConfig
from rnow_core.data.batches import PromptBatches
from rnow_core.errors import RunFailed
from rnow_core.models.device import DeviceThread
from rnow_core.models.seams import Learner
from rnow_core.rollout.collect import Collected, collect
from rnow_core.rollout.evaluate import eval_metrics, evaluate
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.passes import Scoring
from rnow_core.rollout.probe import probe
from rnow_core.stop import StopSignal
from rnow_core.track.aggregate import mismatch_kl
from rnow_core.track.events import Event
from rnow_core.train.ahead import StepRollouts
from rnow_core.train.alarm import check_mismatch
from rnow_core.train.baseline import baseline_metrics, gap_metrics, is_closed, warn_without_gap
from rnow_core.train.batch import to_batch
from rnow_core.train.between_steps import due, load_checkpoint, stop_if_requested
from rnow_core.train.monitors import Verdict, judge
from rnow_core.train.record import RunRecord
from rnow_core.types import Prompt, ScoredRollout

Changed = TypeVar("Changed")


@dataclass(frozen=True)
class EvalPlan:
    """What is evaluated, and how. `every` is None for before and after the run only.

    `name` stands in metrics for rows that name no `env`; `baseline` samples from the teacher. The run ends when
    `stop_at_gap_closed` percent of the gap between the two are closed (None: never).
    """

    name: str
    prompts: Sequence[Prompt]
    group_size: int
    batch_size: int | None
    every: int | None
    parts: RolloutParts
    baseline: RolloutParts | None
    scoring: Scoring
    stop_at_gap_closed: float | None = None


@dataclass(frozen=True)
class OnPolicyRun:
    """The parts and settings of a run. `adapters` is None where the sampler shares the learner's weights.

    `adv_tau` is the weight of the rewards; `stability` bounds what the monitors see. With `async_level` 1 a step is
    sampled while the one before it trains.
    """

    prompts: PromptBatches
    group_size: int
    total_steps: int
    save_every: int
    mask_truncated: bool
    adv_tau: float
    parts: RolloutParts
    learner: Learner
    device: DeviceThread
    adapters: Path | None
    evaluation: EvalPlan | None
    record: RunRecord
    stop: StopSignal
    watch_mismatch: bool
    stability: StabilityConfig
    async_level: int = 0


async def train_on_policy(run: OnPolicyRun, first_step: int) -> None:
    """Train from `first_step` to the end, evaluating and saving on the way; the last step is always saved.

    A run ends before its last step when its evaluation says that the gap to the teacher is closed.

    Raises:
        Interrupted: the user asked to stop; the finished step is saved.
        RunFailed: rollouts, update, the mismatch alarm or a monitor say that going on makes no sense.
    """

    def collect_step(step: int) -> Awaitable[Collected]:
        return collect(run.prompts.batch(step), run.group_size, step, run.parts)

    if gap_is_closed(run, first_step - 1):
        return
    stop_if_stopped(run, first_step - 1)
    rollouts = StepRollouts(collect_step, last_step=run.total_steps, ahead=run.async_level > 0)
    try:
        for step in range(first_step, run.total_steps + 1):
            stop_if_requested(run, step - 1)
            await train_step(run, step, rollouts)
            last = step == run.total_steps
            if run.evaluation and (last or due(step, run.evaluation.every)):
                await evaluate_student(run, run.evaluation, step)
            closed = gap_is_closed(run, step)
            await heed_monitors(run, step, rollouts, ends=last or closed)
            wanted = last or closed or due(step, run.save_every)
            if wanted or run.record.is_best(step):
                run.record.save(step, run.learner, replaceable=not wanted)
            if closed:
                run.record.emit(
                    Event("progress", {"message": f"the gap is closed: ending after step {step}"})
                )
                return
    finally:
        await rollouts.close()


async def train_step(run: OnPolicyRun, step: int, rollouts: StepRollouts) -> None:
    """One step: sample, score, update, publish, write down."""
    collected = await rollouts.take(step)
    batch = to_batch(collected.rollouts, mask_truncated=run.mask_truncated, rewards_train=run.adv_tau > 0.0)
    update = await change_weights(run, partial(run.learner.update, batch, step))
    probed = await probed_mismatch(run, step) if run.async_level and run.watch_mismatch else None
    metrics = run.record.step(step, collected, batch, update, probed, adv_tau=run.adv_tau)
    if run.watch_mismatch:
        check_mismatch(step, metrics["mismatch_kl"], run.record.warn)


async def change_weights(run: OnPolicyRun, change: Callable[[], Changed]) -> Changed:
    """What `change` of the learner returns; the sampler uses the weights that it leaves."""
    async with run.parts.phase("train"):
        result = await run.device.run(change)
        version = await run.device.run(run.learner.publish, run.adapters)
    async with run.parts.phase("publish"):
        await run.parts.sampler.use(version)
    return result


async def probed_mismatch(run: OnPolicyRun, step: int) -> float:
    """`mismatch_kl` of the version just published, on a few short replies of its own.

    The batch's rollouts are older than the learner here, so that their gap says nothing about correctness.
    """
    requests, sampled = await probe(run.prompts.batch(step), step, run.parts)
    trained = await run.device.run(run.learner.logprobs, requests)
    return mismatch_kl(np.array(list(chain.from_iterable(trained))), np.array(sampled))


async def evaluate_student(run: OnPolicyRun, plan: EvalPlan, step: int) -> list[ScoredRollout]:
    """Held-out rewards and teacher KL of the student as it is now, and how much of the gap it has closed."""
    rollouts = await evaluate(plan.prompts, plan.group_size, plan.batch_size, plan.parts)
    metrics = eval_metrics(rollouts, plan.name, plan.scoring)
    before = run.record.evaluations(0) if step > 0 else {}
    run.record.evaluation(step, {**metrics, **gap_metrics(before, metrics)})
    return rollouts


async def evaluate_baseline(run: OnPolicyRun, plan: EvalPlan, student: Sequence[ScoredRollout]) -> None:
    """Before step 1: the teacher's held-out reward, the student's, and the gap between them.

    `student`: its rollouts of the evaluation of step 0.
    """
    if plan.baseline is None:
        return
    rollouts = await evaluate(plan.prompts, plan.group_size, plan.batch_size, plan.baseline)
    teacher = eval_metrics(rollouts, plan.name)
    run.record.evaluation(0, baseline_metrics(run.record.evaluations(0), teacher))
    warn_without_gap(student, rollouts, plan.name, run.record.warn)


async def heed_monitors(run: OnPolicyRun, step: int, rollouts: StepRollouts, *, ends: bool) -> None:
    """Do what the monitors ask for behind `step`; where the run `ends` there, only say it.

    Raises:
        RunFailed: the run is to stop; the step is saved.
    """
    verdict = judge(run.record.rows, step, run.stability)
    if verdict is None:
        return
    action = "warn" if ends else verdict.action
    if action == "stop":
        run.record.save(step, run.learner)
        raise stopped(run, verdict)
    if action == "rollback" and verdict.best is not None:
        await rollouts.close()
        await roll_back(run, step, verdict.best.step)
        run.record.warn(
            f"{verdict.message}; the weights of step {verdict.best.step} are loaded", verdict.hint
        )
    else:
        run.record.warn(verdict.message, verdict.hint)


async def roll_back(run: OnPolicyRun, step: int, to: int) -> None:
    """Go on behind `step` with the weights and the optimizer of the step `to`; data and schedule go forward."""
    checkpoint = run.record.checkpoints.load(to)
    run.record.rolled_back(step, to)
    await change_weights(run, partial(load_checkpoint, run.learner, checkpoint, step))


def stop_if_stopped(run: OnPolicyRun, step: int) -> None:
    """Raise again what ended the run behind `step`: resumed, it has the same reason to stop."""
    verdict = judge(run.record.rows, step, run.stability) if step < run.total_steps else None
    if verdict and verdict.action == "stop":
        raise stopped(run, verdict)


def stopped(run: OnPolicyRun, verdict: Verdict) -> RunFailed:
    """The end of a run by its monitors; names the best checkpoint."""
    best = run.record.best_checkpoint()
    start = f"; start from {best['checkpoint']} (best by {best['metric']})" if best else ""
    return RunFailed(f"stopped by a monitor: {verdict.message}", f"{verdict.hint}{start}")


def gap_is_closed(run: OnPolicyRun, step: int) -> bool:
    """Whether the evaluation behind `step` says that the run may end; from what is on the disk, so also resumed."""
    wanted = run.evaluation.stop_at_gap_closed if run.evaluation else None
    return wanted is not None and is_closed(run.record.evaluations(step), wanted)

"""The loop for `dataset_type: sft`: the student imitates given conversations. Nobody scores its tokens, and it samples
only where held-out rows have rewards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from rnow_core.data.batches import PromptBatches
from rnow_core.data.conversations import Conversations, TokenizedConversation
from rnow_core.models.device import DeviceThread
from rnow_core.models.seams import Learner
from rnow_core.rollout.evaluate import eval_metrics, evaluate
from rnow_core.rollout.parts import Phase, RolloutParts
from rnow_core.rollout.passes import Scoring
from rnow_core.stop import StopSignal
from rnow_core.track.supervised import Surprise, held_out_metrics, supervised_metrics
from rnow_core.train.batch import imitation_batch
from rnow_core.train.between_steps import due, stop_if_requested
from rnow_core.train.record import RunRecord
from rnow_core.types import Prompt, ScoreRequest

SCORED_AT_ONCE = 64
"""Held-out conversations in memory at a time where `eval.batch_size` leaves it open."""


@dataclass(frozen=True)
class Replies:
    """The prompts of held-out conversations with rewards: the student answers each as often as `scoring` says.

    `adapters` is None where the sampler shares the learner's weights.
    """

    prompts: Sequence[Prompt]
    scoring: Scoring
    parts: RolloutParts
    adapters: Path | None


@dataclass(frozen=True)
class HeldOut:
    """Conversations whose loss is measured before, after and `every` so many steps (None: not in between).

    `name` stands in metrics for rows that name no `env`; `replies` is None where no row can be sampled and scored.
    """

    name: str
    rows: Sequence[Prompt]
    batch_size: int | None
    every: int | None
    replies: Replies | None = None


@dataclass(frozen=True)
class OffPolicyRun:
    """The parts and settings of a run. A step trains one batch of `rows`; an epoch's last one may be smaller.

    `phase` is entered around training and sampling, to time it and to give the device to whoever works in it.
    """

    rows: PromptBatches
    conversations: Conversations
    total_steps: int
    save_every: int
    learner: Learner
    device: DeviceThread
    evaluation: HeldOut | None
    phase: Callable[[Phase], AbstractAsyncContextManager[object]]
    record: RunRecord
    stop: StopSignal


async def train_off_policy(run: OffPolicyRun, first_step: int) -> None:
    """Train from `first_step` to the end, evaluating and saving on the way; the last step is always saved.

    Raises:
        Interrupted: the user asked to stop; what was done is saved.
        RunFailed: a loss that is not finite, or memory that ran out.
    """
    for step in range(first_step, run.total_steps + 1):
        stop_if_requested(run, step - 1)
        await train_step(run, step)
        last = step == run.total_steps
        if run.evaluation and (last or due(step, run.evaluation.every)):
            await evaluate_held_out(run, run.evaluation, step)
        wanted = last or due(step, run.save_every)
        if wanted or run.record.is_best(step):
            run.record.save(step, run.learner, replaceable=not wanted)


async def train_step(run: OffPolicyRun, step: int) -> None:
    """One step: render, update, write down."""
    with run.record.clock.phase("render"):
        conversations = [run.conversations.tokenize(row) for row in run.rows.batch(step)]
        batch = imitation_batch(conversations)
    async with run.phase("train"):
        update = await run.device.run(run.learner.update, batch, step)
    text_bytes = sum(conversation.text_bytes for conversation in conversations)
    run.record.log_step(step, supervised_metrics(batch, update, text_bytes, run.record.clock.take()))


async def evaluate_held_out(run: OffPolicyRun, plan: HeldOut, step: int) -> None:
    """The loss of the student as it is now on conversations that it does not train on, and the rewards of its own
    replies to their prompts.
    """
    portion = plan.batch_size or SCORED_AT_ONCE
    costs: list[tuple[str, Surprise]] = []
    for start in range(0, len(plan.rows), portion):
        rows = plan.rows[start : start + portion]
        conversations = [run.conversations.tokenize(row) for row in rows]
        requests = [_from_first_trained(conversation) for conversation in conversations]
        async with run.phase("train"):
            logprobs = await run.device.run(run.learner.logprobs, requests)
        for row, conversation, scored in zip(rows, conversations, logprobs, strict=True):
            costs.append((row.env or plan.name, _surprise(conversation, scored)))
    metrics = held_out_metrics(costs)
    if plan.replies:
        metrics |= await _reply_metrics(run, plan, plan.replies)
    run.record.evaluation(step, metrics)


async def _reply_metrics(run: OffPolicyRun, plan: HeldOut, replies: Replies) -> dict[str, float]:
    """`eval_metrics` of replies that the student samples with its weights of now."""
    parts = replies.parts
    async with run.phase("train"):
        version = await run.device.run(run.learner.publish, replies.adapters)
    async with parts.phase("publish"):
        await parts.sampler.use(version)
    rollouts = await evaluate(replies.prompts, replies.scoring.samples, plan.batch_size, parts)
    return eval_metrics(rollouts, plan.name, replies.scoring)


def _from_first_trained(conversation: TokenizedConversation) -> ScoreRequest:
    return ScoreRequest(tuple(conversation.ids_T), conversation.mask_T.index(True))


def _surprise(conversation: TokenizedConversation, scored: Sequence[float]) -> Surprise:
    """`scored`: logprobs from the first trained token on."""
    mask = conversation.mask_T[len(conversation.mask_T) - len(scored) :]
    return Surprise(-math.fsum(compress(scored, mask)), sum(mask), conversation.text_bytes)

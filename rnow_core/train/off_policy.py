"""The loop for `dataset_type: sft`: the student imitates given conversations. Nobody samples, nobody scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from rnow_core.data.batches import PromptBatches
from rnow_core.data.conversations import Conversations, TokenizedConversation
from rnow_core.models.device import DeviceThread
from rnow_core.models.seams import Learner
from rnow_core.stop import StopSignal
from rnow_core.track.supervised import Surprise, held_out_metrics, supervised_metrics
from rnow_core.train.batch import imitation_batch
from rnow_core.train.between_steps import due, stop_if_requested
from rnow_core.train.record import RunRecord
from rnow_core.types import Prompt, ScoreRequest

SCORED_AT_ONCE = 64
"""Held-out conversations in memory at a time where `eval.batch_size` leaves it open."""


@dataclass(frozen=True)
class HeldOut:
    """Conversations whose loss is measured before, after and `every` so many steps (None: not in between).

    `name` stands in metrics for rows that name no `env`.
    """

    name: str
    rows: Sequence[Prompt]
    batch_size: int | None
    every: int | None


@dataclass(frozen=True)
class OffPolicyRun:
    """The parts and settings of a run. A step trains one batch of `rows`; an epoch's last one may be smaller."""

    rows: PromptBatches
    conversations: Conversations
    total_steps: int
    save_every: int
    learner: Learner
    device: DeviceThread
    evaluation: HeldOut | None
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
        if last or due(step, run.save_every):
            run.record.save(step, run.learner)


async def train_step(run: OffPolicyRun, step: int) -> None:
    """One step: render, update, write down."""
    with run.record.clock.phase("render"):
        conversations = [run.conversations.tokenize(row) for row in run.rows.batch(step)]
        batch = imitation_batch(conversations)
    with run.record.clock.phase("train"):
        update = await run.device.run(run.learner.update, batch, step)
    text_bytes = sum(conversation.text_bytes for conversation in conversations)
    run.record.log_step(step, supervised_metrics(batch, update, text_bytes, run.record.clock.take()))


async def evaluate_held_out(run: OffPolicyRun, plan: HeldOut, step: int) -> None:
    """The loss of the student as it is now on conversations that it does not train on."""
    portion = plan.batch_size or SCORED_AT_ONCE
    costs: list[tuple[str, Surprise]] = []
    for start in range(0, len(plan.rows), portion):
        rows = plan.rows[start : start + portion]
        conversations = [run.conversations.tokenize(row) for row in rows]
        requests = [_from_first_trained(conversation) for conversation in conversations]
        logprobs = await run.device.run(run.learner.logprobs, requests)
        for row, conversation, scored in zip(rows, conversations, logprobs, strict=True):
            costs.append((row.env or plan.name, _surprise(conversation, scored)))
    run.record.evaluation(step, held_out_metrics(costs))


def _from_first_trained(conversation: TokenizedConversation) -> ScoreRequest:
    return ScoreRequest(tuple(conversation.ids_T), conversation.mask_T.index(True))


def _surprise(conversation: TokenizedConversation, scored: Sequence[float]) -> Surprise:
    """`scored`: logprobs from the first trained token on."""
    mask = conversation.mask_T[len(conversation.mask_T) - len(scored) :]
    return Surprise(-math.fsum(compress(scored, mask)), sum(mask), conversation.text_bytes)

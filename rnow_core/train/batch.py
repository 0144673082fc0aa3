"""Scored rollouts, or given conversations -> one ragged batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, repeat

from rnow_core.data.conversations import TokenizedConversation
from rnow_core.types import Batch, ScoredRollout


def to_batch(
    rollouts: Sequence[ScoredRollout], *, mask_truncated: bool = False, rewards_train: bool = False
) -> Batch:
    """Put the rollouts' columns behind one another, one row a rollout, in order.

    Args:
        rollouts: scored rollouts, all with a teacher or all without; the teacher column is then empty.
        mask_truncated: do not train the tokens of replies that were cut. Their reward still counts in the group
            mean that the others are compared with.
        rewards_train: tokens that the teacher gave no value (NaN) are trained by their reward alone. Otherwise they
            are not trained: an advantage of 0 would still count in the loss's denominator.
    """
    trajectories = [scored.rollout.trajectory for scored in rollouts]
    lengths = [len(trajectory.ids_T) for trajectory in trajectories]
    masks = [_mask(scored, mask_truncated, rewards_train) for scored in rollouts]
    return Batch(
        ids=list(chain.from_iterable(trajectory.ids_T for trajectory in trajectories)),
        lengths=lengths,
        mask=list(chain.from_iterable(masks)),
        mu=list(chain.from_iterable(trajectory.mu_T for trajectory in trajectories)),
        teacher=list(chain.from_iterable(scored.teacher_logprobs_T or () for scored in rollouts)),
        task=list(
            chain.from_iterable(
                repeat(scored.task_advantage, length)
                for scored, length in zip(rollouts, lengths, strict=True)
            )
        ),
        signals=[
            scored.signal if any(mask) else scored.signal.take(())
            for scored, mask in zip(rollouts, masks, strict=True)
            if scored.signal is not None
        ],
    )


def imitation_batch(conversations: Sequence[TokenizedConversation]) -> Batch:
    """Put given conversations behind one another, one row each. What sampler and teacher would say of them is 0."""
    lengths = [len(conversation.ids_T) for conversation in conversations]
    return Batch(
        ids=list(chain.from_iterable(conversation.ids_T for conversation in conversations)),
        lengths=lengths,
        mask=list(chain.from_iterable(conversation.mask_T for conversation in conversations)),
        mu=[0.0] * sum(lengths),
        teacher=(),
        task=[0.0] * sum(lengths),
    )


def _mask(scored: ScoredRollout, mask_truncated: bool, rewards_train: bool) -> Sequence[bool]:
    mask_T, teacher_T = scored.rollout.trajectory.mask_T, scored.teacher_logprobs_T
    if mask_truncated and scored.rollout.truncated:
        return [False] * len(mask_T)
    if rewards_train or teacher_T is None:
        return mask_T
    return [flag and not math.isnan(value) for flag, value in zip(mask_T, teacher_T, strict=True)]

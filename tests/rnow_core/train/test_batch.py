"""Rollouts to a ragged batch, and the mismatch alarm."""

import math
from dataclasses import replace

import pytest

from rnow_core.errors import RunFailed
from rnow_core.train.alarm import check_mismatch
from rnow_core.train.batch import to_batch
from rnow_core.types import Prompt, Rollout, ScoredRollout, Trajectory


def scored(ids, n_prompt, stop="stop", teacher=True, task=0.0):
    n = len(ids) - n_prompt
    trajectory = Trajectory(
        ids_T=tuple(ids),
        mask_T=(False,) * n_prompt + (True,) * n,
        mu_T=(0.0,) * n_prompt + tuple(-0.5 - i for i in range(n)),
        prompt_length=n_prompt,
    )
    rollout = Rollout(Prompt(0, (), "f", 1), 0, (), trajectory, "", stop, "student-000000", 0.0)
    logprobs = (0.0,) * n_prompt + tuple(-1.0 - i for i in range(n)) if teacher else None
    return ScoredRollout(rollout, teacher_logprobs_T=logprobs, task_advantage=task)


def test_columns_are_aligned_with_the_ids():
    batch = to_batch([scored([1, 2, 3], 2, task=0.5), scored([4, 5, 6, 7], 1, task=-0.5)])
    assert batch.ids == [1, 2, 3, 4, 5, 6, 7]
    assert batch.lengths == [3, 4]
    assert batch.mask == [False, False, True, False, True, True, True]
    assert batch.mu == [0.0, 0.0, -0.5, 0.0, -0.5, -1.5, -2.5]
    assert batch.teacher == [0.0, 0.0, -1.0, 0.0, -1.0, -2.0, -3.0]
    assert batch.task == [0.5] * 3 + [-0.5] * 4
    assert batch.trained_tokens == 4


def test_without_a_teacher_the_column_is_empty():
    assert to_batch([scored([1, 2], 1, teacher=False)]).teacher == []


def test_truncated_replies_can_be_masked():
    rows = [scored([1, 2, 3], 1, stop="length"), scored([1, 2], 1)]
    assert to_batch(rows).trained_tokens == 3
    assert to_batch(rows, mask_truncated=True).mask == [False, False, False, False, True]


def test_tokens_without_a_teacher_value_are_trained_by_rewards_or_not_at_all():
    row = scored([1, 2, 3, 4], 1, task=0.5)
    row = replace(row, teacher_logprobs_T=(*row.teacher_logprobs_T[:2], math.nan, math.nan))
    assert to_batch([row]).mask == [False, True, False, False]
    hybrid = to_batch([row], rewards_train=True)
    assert hybrid.mask == [False, True, True, True]
    assert [math.isnan(value) for value in hybrid.teacher] == [False, False, True, True]


def test_alarm_is_silent_then_warns_then_stops():
    said = []
    check_mismatch(3, 0.009, lambda *words: said.append(words))
    assert said == []
    check_mismatch(3, 0.02, lambda *words: said.append(words))
    assert "step 3" in said[0][0]
    with pytest.raises(RunFailed, match="mismatch_kl"):
        check_mismatch(3, 0.06, lambda *words: said.append(words))


def test_alarm_ignores_a_step_without_trained_tokens():
    check_mismatch(1, float("nan"), lambda *words: pytest.fail("warned"))

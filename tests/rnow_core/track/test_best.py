"""The best evaluated step: by which figure, over which environments; and the checkpoints that stay for it."""

import errno
import os

import pytest

from rnow_core.errors import RunFailed
from rnow_core.track.best import Best, best_of
from rnow_core.track.checkpoints import REPLACEABLE, Checkpoints


@pytest.fixture
def saved(tmp_path):
    """Checkpoints 0 to 4; 1 and 3 were made only for being the best."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in range(5):
        checkpoints.save(step, lambda folder: None, {REPLACEABLE: True} if step in (1, 3) else {})
    return checkpoints


def test_the_link_moves_and_what_was_surpassed_goes(saved, tmp_path):
    link = tmp_path / "best"
    for step, left in ((1, [0, 1, 2, 3, 4]), (2, [0, 2, 3, 4]), (4, [0, 2, 4])):
        saved.set_best(step, link)
        assert link.resolve() == saved.load(step).path
        assert [checkpoint.step for checkpoint in saved.all()] == left
    with pytest.raises(RunFailed, match="no complete checkpoint of step 3"):
        saved.set_best(3, link)
    assert link.resolve() == saved.load(4).path
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []


def test_a_disk_without_links_does_without(saved, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "symlink", refuse)
    saved.set_best(2, tmp_path / "best")
    assert [checkpoint.step for checkpoint in saved.all()] == [0, 2, 3, 4]
    assert not (tmp_path / "best").exists()


def test_more_reward_is_better_and_the_earliest_of_equals_counts():
    rows = [
        {"step": 0, "eval/a/reward/mean": 0.2, "eval/a/teacher_kl": 0.1},
        {"step": 1, "entropy": 0.5},
        {"step": 2, "eval/a/reward/mean": 0.6, "eval/a/teacher_kl": 0.9},
        {"step": 4, "eval/a/reward/mean": 0.6, "eval/a/teacher_kl": 0.2},
    ]
    assert best_of(rows) == Best(2, "reward/mean", 0.6)
    assert best_of(rows[:1]) == Best(0, "reward/mean", 0.2)
    assert best_of(rows[1:2]) is None


def test_without_rewards_less_divergence_or_loss_is_better():
    kl = [{"step": step, "eval/a/teacher_kl": value} for step, value in ((0, 0.3), (2, -0.1), (4, 0.2))]
    assert best_of(kl) == Best(2, "teacher_kl", -0.1)
    loss = [{"step": step, "eval/a/loss": value} for step, value in ((0, 3.0), (2, 1.5), (4, 2.0))]
    assert best_of(loss) == Best(2, "loss", 1.5)


def test_environments_weigh_by_their_rollouts_and_rows_of_one_step_belong_together():
    rows = [
        {"step": 0, "eval/a/reward/mean": 1.0, "eval/a/rollouts": 1.0},
        {"step": 0, "eval/b/reward/mean": 0.0, "eval/b/rollouts": 3.0},
        {"step": 5, "eval/a/reward/mean": 0.0, "eval/a/rollouts": 1.0},
        {"step": 5, "eval/b/reward/mean": 0.4, "eval/b/rollouts": 3.0},
    ]
    assert best_of(rows[:2]) == Best(0, "reward/mean", 0.25)
    assert best_of(rows).step == 5

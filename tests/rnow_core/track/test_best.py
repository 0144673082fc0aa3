"""The best evaluated step: by which figure, over which environments."""

from rnow_core.track.best import Best, best_of


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

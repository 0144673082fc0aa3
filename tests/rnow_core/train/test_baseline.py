"""The gap between student and teacher: its figures, when a run may end, and when it is none."""

import pytest

from rnow_core.train.baseline import baseline_metrics, gap_metrics, is_closed, warn_without_gap
from rnow_core.types import Prompt, Rollout, ScoredRollout, Trajectory

BEFORE = {
    "eval/a/baseline_student/avg": 0.2,
    "eval/a/baseline_diff": 0.5,
    "eval/b/baseline_student/avg": 0.4,
    "eval/b/baseline_diff": -0.1,
}


def scored(problem, reward, env=None):
    prompt = Prompt(problem, (), "val.jsonl", problem + 1, env=env)
    rollout = Rollout(prompt, 0, (), Trajectory((1,), (True,), (0.0,), 0), "", "stop", "student-000000", 0.0)
    return ScoredRollout(rollout, reward=reward)


def warnings(student, teacher):
    said = []
    warn_without_gap(student, teacher, "val", lambda message, hint: said.append((message, hint)))
    return said


def test_the_baseline_has_both_means_and_their_difference():
    student, teacher = {"eval/a/reward/mean": 0.25, "eval/a/rollouts": 4.0}, {"eval/a/reward/mean": 0.75}
    assert baseline_metrics(student, teacher) == {
        "eval/a/baseline_student/avg": 0.25,
        "eval/a/baseline_teacher/avg": 0.75,
        "eval/a/baseline_diff": 0.5,
    }


@pytest.mark.parametrize(
    ("reward", "percent"), [(0.2, 0.0), (0.45, 50.0), (0.7, 100.0), (0.95, 150.0), (0.1, -20.0)]
)
def test_gap_closed_is_the_share_in_percent_and_only_where_there_is_a_gap(reward, percent):
    found = gap_metrics(BEFORE, {"eval/a/reward/mean": reward, "eval/b/reward/mean": 1.0})
    assert found == {"eval/a/gap_closed": pytest.approx(percent)}


def test_every_env_with_a_gap_must_have_closed_it():
    assert is_closed({"eval/a/gap_closed": 100.0, "eval/b/gap_closed": 101.0, "eval/c/reward/mean": 0.0}, 100)
    assert not is_closed({"eval/a/gap_closed": 100.0, "eval/b/gap_closed": 99.0}, 100)
    assert not is_closed({"eval/a/reward/mean": 1.0}, 100)


def test_a_clear_gap_is_no_reason_to_warn():
    student = [scored(problem, 0.0 if problem else 0.1) for problem in range(8)]
    assert warnings(student, [scored(problem, 1.0) for problem in range(8)]) == []


def test_no_gap_and_a_gap_that_chance_explains_are_told_for_their_env():
    student = [
        scored(0, 1.0),
        scored(1, 0.0),
        scored(2, 0.0, "hard"),
        scored(3, 1.0, "hard"),
        scored(4, 0.0, "hard"),
    ]
    teacher = [
        scored(0, 0.0),
        scored(1, 0.5),
        scored(2, 1.0, "hard"),
        scored(3, 0.0, "hard"),
        scored(4, 1.0, "hard"),
    ]
    (none, none_hint), (chance, chance_hint) = warnings(student, teacher)
    assert none.startswith("eval/val: ")
    assert "-0.25" in none
    assert "no gap to close" in none_hint
    assert chance.startswith("eval/hard: ")
    assert "chance" in chance
    assert "eval.group_size" in chance_hint


def test_rewards_that_nobody_gave_are_told():
    [(message, hint)] = warnings([scored(0, None)], [scored(0, None)])
    assert "no held-out row has a reward" in message
    assert "metadata.answer" in hint

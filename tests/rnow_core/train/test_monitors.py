"""Monitors on made-up histories, and rollouts that are dropped and collected anew."""

import asyncio
import json
import math

import pytest

from rnow_core.config.stability import StabilityConfig
from rnow_core.train.ahead import StepRollouts
from rnow_core.train.monitors import judge, length_ratio, watched

SOUND = {
    "truncated_fraction": 0.1,
    "tokens/rollout": 100.0,
    "length_ratio": 1.0,
    "repetition": 0.1,
    "entropy": 0.5,
    "teacher_kl/truncated": 0.4,
    "teacher_kl/finished": 0.5,
}


def history(*changes):
    """One sound step a change, numbered from 1."""
    return [watched({"step": step, **SOUND, **change}) for step, change in enumerate(changes, 1)]


def acts(rows, **limits):
    """The steps behind which something happens, as a run sees its rows grow."""
    settings = StabilityConfig(**limits)
    steps = {row["step"]: place for place, row in enumerate(rows, 1)}
    found = {step: judge(rows[:place], step, settings) for step, place in steps.items()}
    return {step: verdict.action for step, verdict in found.items() if verdict}


@pytest.mark.parametrize(
    ("key", "limit", "beyond", "within"),
    [
        ("truncated", 0.5, {"truncated_fraction": 0.6}, {"truncated_fraction": 0.5}),
        ("length_ratio", 3.0, {"length_ratio": 3.1}, {"length_ratio": 0.01}),
        ("repetition", 0.3, {"repetition": 0.31}, {"repetition": math.nan}),
        ("entropy_min", 0.02, {"entropy": 0.01}, {"entropy": 0.02}),
        ("kl_gap", 1.0, {"teacher_kl/truncated": -0.6}, {"teacher_kl/truncated": math.nan}),
    ],
)
def test_only_as_many_steps_in_a_row_as_patience_count(key, limit, beyond, within):
    rows = history(beyond, beyond, within, *[beyond] * 12, {})
    settings = {key: limit, "patience": 3}
    assert acts(rows, **settings) == {6: "warn", 9: "warn", 15: "warn"}
    assert acts(rows, **settings, action="stop") == dict.fromkeys((6, 9, 12, 15), "stop")
    assert acts(rows, **{**settings, key: None}) == {}
    verdict = judge(rows[:6], 6, StabilityConfig(**settings))
    assert f"stability.{key} ({limit:g}) for 3 steps" in verdict.message


def test_what_was_read_back_from_the_file_is_judged_as_what_was_logged():
    rows = history({"repetition": 0.1 + 0.2}, {"repetition": math.nan}, {"entropy": 1 / 3})
    assert [watched(json.loads(json.dumps(row))) for row in rows] == rows
    assert "loss/policy" not in watched({"step": 1, "loss/policy": 1.0})


def test_after_a_rollback_steps_are_counted_anew_and_one_too_many_is_a_stop():
    limits = StabilityConfig(patience=2, action="rollback", max_rollbacks=2)
    rows = [watched({"step": 0, "eval/a/reward/mean": 0.5})]
    actions = {}
    for row in history(*[{"entropy": 0.0}] * 7):
        rows.append(row)
        verdict = judge(rows, row["step"], limits)
        if verdict:
            actions[row["step"]] = verdict.action
        if verdict and verdict.action == "rollback":
            assert verdict.best.step == 0
            rows.append(watched({"step": row["step"], "rolled_back_to": 0.0}))
            assert judge(rows, row["step"], limits) is None
    assert actions == {2: "rollback", 4: "rollback", 6: "stop"}


def test_the_best_student_so_far_is_not_rolled_back():
    rows = [*history({"entropy": 0.0}), {"step": 1, "eval/a/reward/mean": 0.9}]
    assert judge(rows, 1, StabilityConfig(patience=1, action="rollback")).action == "warn"
    assert judge(rows, 1, StabilityConfig(patience=1, action="stop")).action == "stop"


def test_length_is_compared_with_the_first_three_steps():
    rows = history(*({"tokens/rollout": length} for length in (10.0, 20.0, 30.0, 500.0)))
    assert length_ratio(rows[:2], {"tokens/rollout": 90.0}) == {}
    assert length_ratio(rows, {"tokens/rollout": 90.0}) == {"length_ratio": 4.5}


def test_rollouts_that_were_dropped_are_collected_anew():
    begun = []

    async def collect(step):
        begun.append(step)
        await asyncio.sleep(0)
        return f"rollouts {step}, {len(begun)}"

    async def take_and_drop():
        rollouts = StepRollouts(collect, last_step=3, ahead=True)
        await rollouts.take(1)
        await asyncio.sleep(0)
        await rollouts.close()
        return await rollouts.take(2)

    assert asyncio.run(take_and_drop()) == "rollouts 2, 3"
    assert begun[:3] == [1, 2, 2]

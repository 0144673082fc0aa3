import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from rnow_core.track.aggregate import mismatch_kl, step_metrics
from rnow_core.types import StopReason, UpdateResult

SECONDS = {"time/step": 2.0, "time/train": 0.5, "time/other": 0.1}


def mean(values):
    return sum(values) / len(values)


def deviation(values):
    return math.sqrt(mean([(value - mean(values)) ** 2 for value in values]))


def without_last_value(item):
    """The rollout as a teacher without room for its last sampled token leaves it."""
    mask, values = item.rollout.trajectory.mask_T, list(item.teacher_logprobs_T)
    last = max(place for place, flag in enumerate(mask) if flag)
    values[last:] = [math.nan] * (len(values) - last)
    return replace(item, teacher_logprobs_T=tuple(values))


def token_rows(scored, batch, update):
    """Every trained token as a dict, found with plain loops."""
    tokens, position, trained = [], 0, 0
    for item, length in zip(scored, batch.lengths, strict=True):
        for offset in range(length):
            if batch.mask[position + offset]:
                values = {name: column[trained] for name, column in update.columns.items()}
                turns = item.rollout.turns_T
                where = {"dataset": item.rollout.prompt.dataset, "turn": turns[offset] if turns else 1}
                where["task"] = item.task_advantage
                cut = item.rollout.stop_reason in ("length", "context")
                where["end"] = "truncated" if cut else "finished"
                mu = item.rollout.trajectory.mu_T[offset]
                teacher = item.teacher_logprobs_T[offset] if item.teacher_logprobs_T else None
                tokens.append({**values, **where, "mu": mu, "teacher": teacher, "name": item.teacher})
                trained += 1
        position += length
    return tokens


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("turns", [1, 3])
def test_equals_plain_loops_on_random_steps(make_step, seed, turns):
    scored, batch, update = make_step(seed, rollouts=12, turns=turns, untrained_rows=(1, 4))
    scored[5] = replace(scored[5], teacher="other")
    scored[3] = without_last_value(scored[3])
    batch = replace(batch, teacher=[v for item in scored for v in item.teacher_logprobs_T])
    tokens = token_rows(scored, batch, update)
    known = [token for token in tokens if not math.isnan(token["teacher"])]
    assert len(known) == len(tokens) - 1
    kl = [token["old"] - token["teacher"] for token in known]
    reward = [0.5 * token["task"] for token in tokens]
    distilled = [token["advantage"] - 0.5 * token["task"] for token in known]
    advantages = [token["advantage"] for token in tokens]
    ratios = [token["old"] - token["mu"] for token in tokens]
    expected = {
        "teacher_kl": mean(kl),
        "advantage/mean": mean(advantages),
        "advantage/std": deviation(advantages),
        "combined_advantage": mean(advantages),
        "advantage/reward": mean(reward),
        "advantage/reward_std": deviation(reward),
        "advantage/teacher": mean(distilled),
        "advantage/teacher_std": deviation(distilled),
        "teacher/unscored_tokens": 1,
        "entropy": mean([token["entropy"] for token in tokens]),
        "clip_fraction": mean([token["clipped"] for token in tokens]),
        "mismatch_kl": mean([math.exp(d) - d - 1 for d in ratios]),
        "reward/mean": mean([item.reward for item in scored]),
        "reward/correct": mean([item.rewards["correct"] for item in scored]),
        "reward/short": mean([item.rewards["short"] for item in scored if "short" in item.rewards]),
        "truncated_fraction": mean([item.rollout.stop_reason in ("length", "context") for item in scored]),
        "tokens/prompt": sum(item.rollout.trajectory.prompt_length for item in scored),
        "tokens/completion": sum(sum(item.rollout.trajectory.mask_T) for item in scored),
        "tokens/trained": len(tokens),
        "tokens/per_second": sum(sum(item.rollout.trajectory.mask_T) for item in scored) / 2.0,
        "loss/policy": 0.25,
        "grad_norm": 1.5,
        "learning_rate": 1e-4,
        "rollouts/failed": 3,
        "rollouts/stale": 2,
        "repetition": math.nan if turns == 1 else 0.0,  # one turn has fewer than 8 tokens
        "tokens/rollout": mean([sum(item.rollout.trajectory.mask_T) for item in scored]),
        **SECONDS,
    }
    for reason in get_args(StopReason):
        expected[f"stop/{reason}"] = mean([item.rollout.stop_reason == reason for item in scored])
    if turns > 1:
        rollouts = [item.rollout for item in scored]
        expected["turns/mean"] = turns
        expected["tools/calls"] = mean([rollout.tool_calls for rollout in rollouts])
        expected["tools/errors"] = mean([rollout.tool_errors for rollout in rollouts])
    groups = [("dataset", "dataset_"), ("name", ""), ("end", "")] + ([("turn", "turn_")] if turns > 1 else [])
    for key, prefix in groups:
        for value in {token[key] for token in known}:
            members = [number for number, token in zip(kl, known, strict=True) if token[key] == value]
            expected[f"teacher_kl/{prefix}{value}"] = mean(members)
    metrics = step_metrics(scored, batch, update, SECONDS, failed=3, stale=2, adv_tau=0.5)
    assert metrics == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_every_value_is_a_plain_float(make_step):
    metrics = step_metrics(*make_step(), SECONDS, failed=0)
    assert {type(value) for value in metrics.values()} == {float}
    assert all(type(name) is str for name in metrics)


def test_without_teacher_or_rewards_their_names_are_absent(make_step):
    metrics = step_metrics(*make_step(teacher=None, rewards=False), SECONDS, failed=0)
    assert not [name for name in metrics if name.startswith(("teacher_kl", "reward/"))]


def test_one_teacher_and_one_turn_add_no_extra_names(make_step):
    metrics = step_metrics(*make_step(), SECONDS, failed=0)
    names = {name.removeprefix("teacher_kl") for name in metrics if name.startswith("teacher_kl")}
    assert names == {"", "/dataset_0", "/dataset_1", "/dataset_2", "/truncated", "/finished"}


def test_rollouts_without_a_teacher_do_not_dilute_the_kl(make_step):
    scored, batch, update = make_step(rollouts=4)
    scored[2] = replace(scored[2], teacher=None, teacher_logprobs_T=None)
    kl = [row["old"] - row["teacher"] for row in token_rows(scored, batch, update) if row["name"]]
    assert step_metrics(scored, batch, update, SECONDS, 0)["teacher_kl"] == pytest.approx(mean(kl))


def test_turns_and_tool_calls_are_means_over_the_rollouts_that_had_tools(make_step):
    """A rollout whose student never called a tool counts; one that had none to call does not."""
    scored, batch, update = make_step(rollouts=3)
    made = [(True, (0, 0, 1, 0, 2), 5, 1), (True, (), 0, 0), (False, (), 0, 0)]
    for row, (agentic, turns, calls, errors) in enumerate(made):
        length = len(scored[row].rollout.trajectory.ids_T)
        turns_T = (*turns, *[0] * length)[:length] if turns else ()
        rollout = replace(
            scored[row].rollout, agentic=agentic, turns_T=turns_T, tool_calls=calls, tool_errors=errors
        )
        scored[row] = replace(scored[row], rollout=rollout)
    metrics = step_metrics(scored, batch, update, SECONDS, failed=0)
    turns = max(scored[0].rollout.turns_T)
    assert metrics["turns/mean"] == (turns + 1) / 2
    assert (metrics["tools/calls"], metrics["tools/errors"]) == (2.5, 0.5)
    without = step_metrics([*make_step(rollouts=3)[0]], batch, update, SECONDS, failed=0)
    assert not without.keys() & {"turns/mean", "tools/calls", "tools/errors"}


def test_a_step_without_trained_tokens_has_no_means_and_no_warnings(make_step, recwarn):
    scored, batch, update = make_step(rollouts=3, turns=2, untrained_rows=(0, 1, 2))
    metrics = step_metrics(scored, batch, update, SECONDS, failed=0)
    assert metrics["tokens/trained"] == 0
    for name in ("teacher_kl", "entropy", "advantage/mean", "advantage/std", "mismatch_kl", "clip_fraction"):
        assert math.isnan(metrics[name])
    assert not recwarn.list


def test_mismatch_is_zero_for_equal_exact_for_tiny_and_finite_for_huge_differences():
    assert mismatch_kl(np.array([-1.0, -2.0]), np.array([-1.0, -2.0])) == 0.0
    tiny = mismatch_kl(np.array([-1.0 + 1e-6]), np.array([-1.0]))
    assert tiny == pytest.approx(0.5e-12, rel=1e-3)
    assert math.isfinite(mismatch_kl(np.array([0.0, -np.inf]), np.array([-1e9, 0.0])))


def test_lengths_that_do_not_fit_are_refused_with_both_numbers(make_step):
    scored, batch, update = make_step(rollouts=4)
    with pytest.raises(ValueError, match="4 rows, but there are 3"):
        step_metrics(scored[:3], batch, update, SECONDS, 0)
    columns = {**update.columns, "old": update.columns["old"][:-1]}
    short = UpdateResult(0.0, 0.0, 0.0, 1, columns)
    with pytest.raises(ValueError, match="'old'"):
        step_metrics(scored, batch, short, SECONDS, 0)
    with pytest.raises(ValueError, match="mask"):
        step_metrics(scored, replace(batch, mask=batch.mask[:-1]), update, SECONDS, 0)

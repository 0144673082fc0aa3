"""Groups, failures, retries and scores, with a real sampler and real teachers where weights matter."""

import asyncio
from dataclasses import replace

import pytest

from rnow_core.errors import RolloutFailed, RunFailed
from rnow_core.rollout.collect import collect
from rnow_core.rollout.evaluate import eval_metrics, evaluate
from rnow_core.rollout.parts import RolloutParts
from rnow_core.rollout.score import align, with_task_advantages
from rnow_core.types import Prompt, SamplingParams


class LengthReward:
    """Scores with the number of characters; fails for the samples that `fails` chooses."""

    def __init__(self, fails=lambda call: False):
        self.calls = 0
        self.fails = fails

    async def score(self, prompt, messages, session):
        self.calls += 1
        if self.fails(self.calls):
            raise RolloutFailed("reward 'length': ZeroDivisionError")
        return {"length": float(len(messages[-1]["content"]))}

    def total(self, rewards):
        return sum(rewards.values())


def prompts(n, **extra):
    return [
        Prompt(
            i, ({"role": "user", "content": f"{i}+1=?"},), "train.jsonl", i + 1, rewards=("length",), **extra
        )
        for i in range(n)
    ]


@pytest.fixture
def parts(tiny_parts):
    return replace(tiny_parts, rewards=LengthReward())


def run(work):
    return asyncio.run(work)


def test_order_is_prompts_then_samples(parts):
    collected = run(collect(prompts(3), 2, 1, parts))
    assert [(s.rollout.prompt.index, s.rollout.sample) for s in collected.rollouts] == [
        (p, g) for p in range(3) for g in range(2)
    ]
    assert collected.failures == ()


def test_same_step_same_rollouts_other_step_others(parts):
    def ids(step):
        return [s.rollout.trajectory.ids_T for s in run(collect(prompts(3), 2, step, parts)).rollouts]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_teacher_scores_the_sampled_ids(parts):
    for scored in run(collect(prompts(2), 2, 1, parts)).rollouts:
        trajectory = scored.rollout.trajectory
        assert len(scored.teacher_logprobs_T) == len(trajectory.ids_T)
        assert all(value == 0.0 for value in scored.teacher_logprobs_T[: trajectory.prompt_length])
        assert all(value < 0.0 for value in scored.teacher_logprobs_T[trajectory.prompt_length :])


def test_group_mean_is_over_survivors(parts):
    failing = replace(parts, rewards=LengthReward(fails=lambda call: call == 2))
    collected = run(collect(prompts(2), 3, 1, failing))
    assert len(collected.rollouts) == 5
    assert collected.failures == ("reward 'length': ZeroDivisionError",)
    for index in range(2):
        group = [s for s in collected.rollouts if s.rollout.prompt.index == index]
        assert sum(s.task_advantage for s in group) == pytest.approx(0.0, abs=1e-9)
        mean = sum(s.reward for s in group) / len(group)
        assert group[0].task_advantage == pytest.approx(group[0].reward - mean)


def test_a_lone_survivor_has_no_advantage(parts):
    scored = run(collect(prompts(1), 1, 1, parts)).rollouts
    assert with_task_advantages(scored)[0].task_advantage == 0.0


def test_a_step_with_too_few_rollouts_is_sampled_again(parts):
    flaky = LengthReward(fails=lambda call: call <= 4)
    collected = run(collect(prompts(2), 3, 1, replace(parts, rewards=flaky)))
    assert len(collected.rollouts) == 6
    assert flaky.calls == 12


def test_then_the_run_stops_with_the_commonest_cause(parts):
    with pytest.raises(RunFailed, match="ZeroDivisionError") as error:
        run(collect(prompts(2), 3, 1, replace(parts, rewards=LengthReward(fails=lambda call: True))))
    assert "12 times" in error.value.message
    assert "--resume" in error.value.hint


def test_wrong_number_of_logprobs_is_caught(parts):
    rollout = run(collect(prompts(1), 1, 1, parts)).rollouts[0].rollout
    with pytest.raises(RunFailed, match="logprobs for a response"):
        align(rollout, [0.0], "teacher")


def test_evaluation_draws_the_same_numbers_each_time(parts):
    first = run(evaluate(prompts(4), 2, None, parts))
    second = run(evaluate(prompts(4), 2, None, parts))
    portions = run(evaluate(prompts(4), 2, 3, parts))
    expected = [s.rollout.trajectory.ids_T for s in first]
    assert [s.rollout.trajectory.ids_T for s in second] == expected
    assert [s.rollout.trajectory.ids_T for s in portions] == expected


def test_metrics_by_environment(parts):
    rows = [*prompts(2), *(replace(p, index=p.index + 2, env="hard") for p in prompts(2))]
    metrics = eval_metrics(run(evaluate(rows, 2, None, parts)), "val")
    assert metrics["eval/val/rollouts"] == metrics["eval/hard/rollouts"] == 4
    assert {"eval/hard/reward/length", "eval/val/teacher_kl"} <= set(metrics)


def test_context_window_ends_a_reply(parts):
    prompt = prompts(1)[0]
    length = len(parts.renderer.prompt_ids(prompt.messages))
    narrow = replace(
        parts, context_window=length + 3, params=replace(parts.params, max_tokens=50, stop_ids=())
    )
    rollout = run(collect([prompt], 1, 1, narrow)).rollouts[0].rollout
    assert rollout.stop_reason == "context"
    assert rollout.truncated
    assert len(rollout.trajectory.ids_T) == length + 3


def test_reply_text_ends_before_the_stop_token(parts):
    every_id = tuple(range(parts.renderer.vocab_size))
    stops = replace(parts, params=replace(parts.params, stop_ids=every_id))
    rollout = run(collect(prompts(1), 1, 1, stops)).rollouts[0].rollout
    assert rollout.stop_reason == "stop"
    assert rollout.messages[-1] == {"role": "assistant", "content": ""}
    assert sum(rollout.trajectory.mask_T) == 1


def test_parts_without_a_teacher(parts: RolloutParts):
    alone = replace(parts, teachers={}, params=SamplingParams(max_tokens=4, stop_ids=(2,)))
    assert all(s.teacher_logprobs_T is None for s in run(collect(prompts(2), 2, 1, alone)).rollouts)

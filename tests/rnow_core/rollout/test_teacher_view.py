"""What a teacher with a context is asked to score, and what becomes of tokens that it has no room for."""

import asyncio
import math
from dataclasses import replace

import pytest

from rnow_core.data.teacher_context import TeacherContext
from rnow_core.errors import RunFailed
from rnow_core.rollout.collect import collect
from rnow_core.rollout.evaluate import eval_metrics
from rnow_core.rollout.score import align, score_with_teachers, teacher_views
from rnow_core.types import Prompt

CONTEXT = "think first. \n\n"


def prompt(index=0, **fields):
    messages = ({"role": "system", "content": "be short"}, {"role": "user", "content": "2+2=?"})
    return Prompt(index, messages, "train.jsonl", index + 1, **fields)


@pytest.fixture(scope="module")
def parts(tiny_parts):
    return replace(tiny_parts, contexts={"teacher": TeacherContext(CONTEXT)})


@pytest.fixture(scope="module")
def sampled(tiny_parts):
    rows = [prompt(0), prompt(1, teacher_context="rules: "), prompt(2, teacher_context="")]
    alone = replace(tiny_parts, teachers={})
    return asyncio.run(collect(rows, 2, 1, alone)).rollouts


def views(sampled, parts):
    return teacher_views([scored.rollout for scored in sampled], "teacher", parts)


@pytest.mark.parametrize("role", ["user", "system"])
def test_the_students_ids_stand_verbatim_behind_the_prompt_with_the_context(sampled, parts, role):
    parts = replace(parts, contexts={"teacher": TeacherContext(CONTEXT, role)})
    for scored, view in zip(sampled, views(sampled, parts), strict=True):
        rollout, row = scored.rollout, scored.rollout.prompt
        context = {0: CONTEXT, 1: "rules: ", 2: ""}[row.index]
        before = {"user": "2+2=?", "system": "be short"}[role]
        text = rollout.prompt_text.replace(before, context + before)
        assert view.prompt_text == text
        assert view.request.ids == (*parts.renderer.encode(text), *rollout.trajectory.response_ids)
        assert view.request.start == len(parts.renderer.encode(text))
        assert view.unscored == 0
        assert (view.request.ids == rollout.trajectory.ids_T) == (row.index == 2)


def test_tokens_beyond_what_the_teacher_reads_have_no_value(sampled, parts):
    whole = asyncio.run(score_with_teachers(sampled, parts))
    prompt_length = views(sampled, parts)[0].request.start
    cut = replace(parts, teacher_windows={"teacher": prompt_length + 3})
    for full, scored in zip(whole, asyncio.run(score_with_teachers(sampled, cut)), strict=True):
        start = full.rollout.trajectory.prompt_length
        fits = {0: 3, 1: 3 + len(CONTEXT) - len("rules: "), 2: 3 + len(CONTEXT)}[full.rollout.prompt.index]
        expected = [*full.teacher_logprobs_T[: start + fits]]
        expected += [math.nan] * (len(full.teacher_logprobs_T) - len(expected))
        assert scored.teacher_logprobs_T == pytest.approx(expected, abs=1e-5, nan_ok=True)
    none = asyncio.run(score_with_teachers(sampled, replace(parts, teacher_windows={"teacher": 5})))
    assert {math.isnan(value) for scored in none for value in scored.teacher_logprobs_T[-1:]} == {True}
    assert "eval/x/teacher_kl" not in eval_metrics(none, "x")


def test_an_evaluation_compares_with_the_teacher_that_sees_the_context(sampled, parts):
    def kl(parts):
        return eval_metrics(asyncio.run(score_with_teachers(sampled, parts)), "x")["eval/x/teacher_kl"]

    assert kl(parts) != pytest.approx(kl(replace(parts, contexts={})), abs=1e-3)


def test_a_teacher_that_samples_sees_its_context_and_rewards_do_not(parts):
    as_teacher = replace(parts, teachers={}, teacher_samples=True)
    (scored,) = asyncio.run(collect([prompt()], 1, 0, as_teacher)).rollouts
    assert CONTEXT + "2+2=?" in scored.rollout.prompt_text
    assert (
        parts.renderer.encode(scored.rollout.prompt_text)
        == (scored.rollout.trajectory.ids_T[: scored.rollout.trajectory.prompt_length])
    )
    assert scored.rollout.messages[:2] == prompt().messages


def test_a_teacher_that_returns_no_number_is_an_error(sampled):
    rollout = sampled[0].rollout
    count = len(rollout.trajectory.response_ids)
    with pytest.raises(RunFailed, match="no number"):
        align(rollout, [math.nan] * count, "big")
    with pytest.raises(RunFailed, match=f"response of {count - 1} ids"):
        align(rollout, [-1.0] * count, "big", unscored=1)

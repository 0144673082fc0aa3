"""The self-checks pass on real models and catch a part that says something else than the others."""

import asyncio
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from rnow_core.build.assemble import build
from rnow_core.build.fixed import choose_fixed
from rnow_core.build.tools import make_tools
from rnow_core.errors import RnowError, RunFailed
from rnow_core.preflight.check import check_project
from rnow_core.preflight.selfcheck import FLOAT32, require, self_check

AGREE = "sampler and learner agree"
SAME_PATH = "student as its own teacher has KL 0"
REPEATS = "teacher 'teacher' repeats itself"


class Changed:
    """A teacher whose answers go through `change(rows, call)`; `call` counts from 0."""

    unit = "step"

    def __init__(self, teacher, change):
        self.teacher, self.change, self.calls = teacher, change, 0

    async def score(self, requests):
        rows = self.change(await self.teacher.score(requests), self.calls)
        self.calls += 1
        return rows


def assemble(folder, *overrides):
    report = check_project(folder, overrides)
    project, config = report.project, report.project.loaded.config
    return project, build(
        config,
        choose_fixed(config, report.plan),
        project_dir=folder,
        run_dir=folder / "runs" / "check",
        renderer=project.renderer,
        context_window=project.context_window,
        rewards=None,
        tools=make_tools(
            config,
            (),
            project.renderer,
            sandboxed_rewards=False,
            project=folder,
            run_dir=folder / "runs" / "check",
        ),
        total_steps=4,
        clock=lambda name: nullcontext(),
    )


@pytest.fixture(scope="module")
def real(pristine):
    project, built = assemble(pristine)
    yield project, built
    asyncio.run(built.close())


def run_check(real, *, learner=None, student_as_teacher=None, teacher=None, sampler=None):
    """The results by name, with some parts replaced."""
    project, built = real
    parts = built.training
    if teacher is not None:
        parts = replace(parts, teachers={"teacher": teacher})
    if sampler is not None:
        parts = replace(parts, sampler=sampler)

    async def score(requests):
        return await built.device.run(built.learner.logprobs, requests)

    results = asyncio.run(
        self_check(
            project.prompts,
            parts,
            learner or score,
            student_as_teacher or built.engine.student_as_teacher,
            FLOAT32,
        )
    )
    return {result.name: result for result in results}


def failed(results):
    return [name for name, result in results.items() if not result.passed]


def test_real_parts_pass(real):
    results = run_check(real)
    assert list(results) == [AGREE, SAME_PATH, REPEATS]
    assert failed(results) == []
    require(list(results.values()))


@pytest.mark.parametrize(
    "overrides", [["model.qlora_rank=0"], ["teacher.path=self"], ["rollout.temperature=0.5"]]
)
def test_other_configurations_pass(pristine, overrides):
    project, built = assemble(pristine, *overrides)
    try:
        assert failed(run_check((project, built))) == []
    finally:
        asyncio.run(built.close())


def test_a_sampler_with_other_weights_is_caught(real, pristine):
    _, other = assemble(pristine, "model.path=./teacher", "teacher.path=./student")
    try:
        results = run_check(real, sampler=other.training.sampler)
        assert failed(results) == [AGREE]
        with pytest.raises(RunFailed, match="sampler and learner agree: mismatch KL") as error:
            require(list(results.values()))
        assert "nothing was trained" in error.value.hint
    finally:
        asyncio.run(other.close())


def test_a_slightly_changed_student_is_caught(real):
    """5 % off on every token."""
    _, built = real

    async def drifted(requests):
        return [
            [value + 0.05 for value in row]
            for row in await built.device.run(built.learner.logprobs, requests)
        ]

    assert failed(run_check(real, learner=drifted)) == [AGREE, SAME_PATH]


def shifted(rows, call):
    return [[*row[1:], row[0]] for row in rows]


def test_a_scoring_path_that_is_one_position_off_is_caught(real):
    _, built = real
    results = run_check(real, student_as_teacher=Changed(built.engine.student_as_teacher, shifted))
    assert failed(results) == [SAME_PATH]


def test_gaps_that_cancel_out_are_caught(real):
    _, built = real

    def alternate(rows, call):
        return [[value + 0.1 * (-1) ** i for i, value in enumerate(row)] for row in rows]

    assert failed(
        run_check(real, student_as_teacher=Changed(built.engine.student_as_teacher, alternate))
    ) == [SAME_PATH]


def test_a_teacher_that_does_not_repeat_itself_is_caught(real):
    _, built = real
    teacher = built.training.teachers["teacher"]

    def noisy(rows, call):
        return [[value + 0.001 * call for value in row] for row in rows]

    assert failed(run_check(real, teacher=Changed(teacher, noisy))) == [REPEATS]


@pytest.mark.parametrize("call", [0, 1])
def test_a_teacher_that_gives_no_finite_number_is_caught(real, call):
    _, built = real

    def broken(rows, number):
        return [[math.nan, *rows[0][1:]], *rows[1:]] if number == call else rows

    results = run_check(real, teacher=Changed(built.training.teachers["teacher"], broken))
    assert failed(results) == [REPEATS]
    assert "not finite" in results[REPEATS].detail


def test_a_teacher_that_leaves_tokens_out_is_caught(real):
    _, built = real

    def short(rows, call):
        return [row[:-1] for row in rows] if call else rows

    results = run_check(real, teacher=Changed(built.training.teachers["teacher"], short))
    assert failed(results) == [REPEATS]
    assert "logprobs for the same tokens" in results[REPEATS].detail


def test_a_learner_far_off_is_a_failed_check_and_no_overflow(real):
    _, built = real

    async def far(requests):
        return [[1e4] * len(row) for row in await built.device.run(built.learner.logprobs, requests)]

    assert AGREE in failed(run_check(real, learner=far))


def test_broken_weights_of_a_teacher_stop_with_a_reason(pristine):
    project, built = assemble(pristine)
    try:
        teacher = built.training.teachers["teacher"]
        with torch.no_grad():
            next(iter(teacher._scorer.lm.model.parameters())).fill_(math.nan)
        with pytest.raises(RnowError, match="not finite"):
            run_check((project, built))
    finally:
        asyncio.run(built.close())


def test_the_checks_train_nothing(real):
    _, built = real
    before = {name: weight.clone() for name, weight in built.learner._lm.trainable_parameters().items()}
    run_check(real)
    after = built.learner._lm.trainable_parameters()
    assert all(torch.equal(before[name], weight) for name, weight in after.items())

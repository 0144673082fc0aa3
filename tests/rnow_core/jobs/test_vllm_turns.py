"""Servers and trainer that take turns, and rollouts that run ahead: whole runs on real servers."""

import asyncio
import json
from dataclasses import replace

import pytest
from served_runs import (
    MISMATCH,
    ROLLOUTS,
    STEPS,
    assert_complete,
    elsewhere,
    processes_with,
    run,
    write_project,
)
from tiny import make_model

from rnow_core.models.vllm_sampler import VLLMSampler
from rnow_core.models.vllm_sleep import Sleeper
from rnow_core.preflight import plan
from rnow_core.rollout import collect
from rnow_core.train import on_policy
from rnow_core.types import version_step

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


def test_on_one_gpu_only_the_server_whose_turn_it_is_is_awake(tmp_path, monkeypatch):
    """On the CPU sleep frees nothing, but a server that sleeps answers no request until it is woken."""
    place = plan.place
    monkeypatch.setattr(plan, "place", lambda *args: replace(place(*args), sharing="sleep"))
    turns = []

    def recorded(action, name):
        async def call(self):
            await action(self)
            turns.append((name, self._client.endpoint.role, await self.asleep()))

        return call

    for name in ("sleep", "wake"):
        monkeypatch.setattr(Sleeper, name, recorded(getattr(Sleeper, name), name))
    make_model(tmp_path / "student", seed=1)
    make_model(tmp_path / "teacher", seed=2, layers=2)
    project = write_project(
        tmp_path, rollout={"engine": "vllm"}, teacher={"path": "./teacher"}, trainer={"save_step": -1}
    )
    ran = run(project, "turns")
    assert_complete(ran, STEPS)
    assert all(asleep == (name == "sleep") for name, _, asleep in turns)
    student, teacher = "the student's server", "the teacher's server"
    # start: each sleeps when it is up, then the student wakes for the first version; then the self-check
    first = [("sleep", student), ("sleep", teacher), ("sleep", teacher), ("wake", student)]
    assert [turn[:2] for turn in turns[:4]] == first
    step = [("sleep", student), ("wake", teacher)]  # score
    step += [("sleep", student), ("sleep", teacher)]  # train
    step += [("sleep", teacher), ("wake", student)]  # publish, and the next step's rollouts
    assert [turn[:2] for turn in turns[-3 * len(step) :]] == 3 * step
    assert processes_with(str(tmp_path)) == []


def test_a_step_is_sampled_while_the_one_before_trains(vllm_student, vllm_teacher, tmp_path):
    """With async_level 1 rollouts are one version old, each is trained once, and the alarm is a probe."""
    with elsewhere(vllm_student, vllm_teacher) as both:
        ran = run(both.project(tmp_path, trainer={"async_level": 1}), "ahead")
    assert_complete(ran, STEPS)
    policies = {step: {one["policy"] for one in rollouts} for step, rollouts in ran.traces().items()}
    assert policies == {1: {"student-000000"}, 2: {"student-000000"}, 3: {"student-000001"}}
    assert all(metrics["rollouts/stale"] == 0 for metrics in ran.steps)
    # the batch's own gap is that of the policies, which the learning rate makes large
    assert ran.steps[0]["staleness_kl"] < MISMATCH
    assert all(metrics["staleness_kl"] > MISMATCH for metrics in ran.steps[1:])
    assert json.loads((ran.folder / "config.json").read_text())["fixed"]["placement"]["async_level"] == 1


class TooFarAhead(on_policy.StepRollouts):
    """Samples the next step while one trains, in a run that does not allow it."""

    def __init__(self, collect, *, last_step, ahead):
        super().__init__(collect, last_step=last_step, ahead=True)


@pytest.fixture
def retry_waits_for_the_version(monkeypatch):
    """The second sampling of a step begins when the version that it should have is there, however slow training is."""
    used, sample, use = [], collect._sample, VLLMSampler.use

    async def noted(self, version):
        await use(self, version)
        used.append(version_step(version.name))

    async def due(prompts, group_size, step, parts, offset):
        while offset and max(used) < step - 1:
            await asyncio.sleep(0.01)
        return await sample(prompts, group_size, step, parts, offset)

    monkeypatch.setattr(VLLMSampler, "use", noted)
    monkeypatch.setattr(collect, "_sample", due)


@pytest.mark.usefixtures("retry_waits_for_the_version")
def test_rollouts_that_are_too_old_are_dropped_and_counted(vllm_student, vllm_teacher, tmp_path, monkeypatch):
    """They are sampled again, by then with the version that the step should have."""
    monkeypatch.setattr(on_policy, "StepRollouts", TooFarAhead)
    with elsewhere(vllm_student, vllm_teacher) as both:
        ran = run(both.project(tmp_path), "stale")
    assert ran.error is None
    assert [metrics["rollouts/stale"] for metrics in ran.steps] == [0, ROLLOUTS, ROLLOUTS]
    policies = [{one["policy"] for one in rollouts} for _, rollouts in sorted(ran.traces().items())]
    assert policies == [{"student-000000"}, {"student-000001"}, {"student-000002"}]

"""Runs on servers that misbehave: healed with nothing lost or doubled, or stopped with the cause and a checkpoint."""

import os
import random
from collections import deque

import pytest
from fault_proxy import Fault
from served_runs import (
    ADAPTER,
    ROLLOUTS,
    STEPS,
    assert_complete,
    assert_same,
    elsewhere,
    processes_with,
    run,
    write_project,
)
from tiny import make_model
from vllm_fixtures import CONTEXT

from rnow_core.models.hf_learner import HFLearner
from rnow_core.models.vllm_completion import PATH
from rnow_core.models.vllm_http import VLLMClient

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]
TROUBLE = [Fault(status=500), Fault(status=503), Fault(drop=True), Fault(cut=True), Fault(wait=0.3)]
OUT_OF_ORDER = Fault(status=500)


@pytest.fixture
def servers(vllm_student, vllm_teacher):
    with elsewhere(vllm_student, vllm_teacher) as both:
        yield both


def behind_checkpoint(step, act):
    """An event handler that calls `act` when the checkpoint of `step` is written."""

    def on_event(event):
        if event.kind == "checkpoint" and event.fields["step"] == step:
            act()

    return on_event


def assert_resumes(servers, project, ran, expected, *, last):
    """The run stopped behind checkpoint `last`; with the fault gone it ends as the undisturbed one."""
    assert ran.error is not None
    assert ran.status["state"] == "failed"
    assert "rnow run --resume" in ran.error.hint
    assert ran.checkpoints()[-1] == f"step_{last:06d}"
    resumed = run(project, ran.folder.name, resume=True)
    assert len(resumed.steps) == STEPS - last
    assert_complete(resumed, STEPS)
    assert_same(resumed, expected)


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_at_random_moments_change_nothing(servers, undisturbed, tmp_path, seed):
    draw = random.Random(seed)
    proxies = (servers.student, servers.teacher)

    def begin():
        for proxy in proxies:
            proxy.requests.clear()
            proxy.faults = deque(draw.choice(TROUBLE) if draw.random() < 0.5 else Fault() for _ in range(60))

    ran = run(servers.project(tmp_path), "disturbed", on_event=behind_checkpoint(0, begin))
    assert_complete(ran, STEPS)
    assert min(proxy.failed for proxy in proxies) >= 5
    # none was sampled or scored twice
    assert servers.student.requests[PATH] == STEPS * ROLLOUTS + servers.student.failed
    assert servers.teacher.requests.total() == STEPS * ROLLOUTS + servers.teacher.failed
    assert_same(ran, undisturbed)


def test_a_teacher_that_answers_500_for_a_while(servers, undisturbed, tmp_path):
    def begin():
        servers.teacher.requests.clear()
        servers.teacher.faults = deque([OUT_OF_ORDER] * 40)

    ran = run(servers.project(tmp_path), "healed", on_event=behind_checkpoint(1, begin))
    assert_complete(ran, STEPS)
    assert servers.teacher.failed == 40
    assert servers.teacher.requests.total() == (STEPS - 1) * ROLLOUTS + 40
    assert_same(ran, undisturbed)


def test_a_teacher_that_never_recovers_stops_the_run(servers, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(VLLMClient.__init__.__kwdefaults__, "patience_s", 1.0)
    project = servers.project(tmp_path)

    def begin():
        servers.teacher.faults = deque([OUT_OF_ORDER] * 10_000)

    ran = run(project, "stopped", on_event=behind_checkpoint(1, begin))
    servers.teacher.faults.clear()
    for part in ("the teacher's server", servers.teacher.url, "answered 500", "out of order"):
        assert part in ran.error.message
    assert_resumes(servers, project, ran, undisturbed, last=1)


def test_a_half_written_adapter_stops_the_run(servers, undisturbed, tmp_path, monkeypatch):
    publish = HFLearner.publish

    def torn(learner, folder):
        version = publish(learner, folder)
        if version.name == "student-000002":
            os.truncate(version.path / ADAPTER, (version.path / ADAPTER).stat().st_size // 2)
        return version

    project = servers.project(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(HFLearner, "publish", torn)
        ran = run(project, "torn")
    assert f"{ran.folder / 'adapters' / 'student-000002'} was not loaded" in ran.error.message
    assert_resumes(servers, project, ran, undisturbed, last=1)


def test_a_server_with_a_smaller_context_than_the_run_needs(servers, tmp_path):
    project = servers.project(tmp_path, rollout={"max_context_window": None})
    ran = run(project, "long")
    assert f"{CONTEXT}" in ran.error.message
    assert f"{2 * CONTEXT}" in ran.error.message
    assert f"rollout.max_context_window: {CONTEXT}" in ran.error.hint
    assert ran.steps == ran.of("check") == []


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_server_of_another_model_than_configured(servers, tmp_path, role):
    other = servers.teacher if role == "student" else servers.student
    section = "rollout" if role == "student" else "teacher"
    ran = run(servers.project(tmp_path, **{section: {"url": other.url}}), "mistaken")
    student, teacher = map(str, servers.models)
    configured, served = (student, teacher) if role == "student" else (teacher, student)
    assert f"the {role}'s server ({other.url}) serves" in ran.error.message
    assert served in ran.error.message
    assert f"expected {configured}" in ran.error.message
    assert ran.steps == []


def test_a_server_that_never_gets_healthy(servers, tmp_path):
    """vLLM has no attention for heads this small on a CPU; transformers, which trains, does."""
    make_model(tmp_path / "student", seed=1, head_dim=8)
    teacher = {"path": str(servers.models[1]), "url": servers.teacher.url}
    project = write_project(
        tmp_path, model={"path": "./student"}, teacher=teacher, rollout={"engine": "vllm"}
    )
    ran = run(project, "unhealthy")
    log = ran.folder / "logs" / "student-server.log"
    assert "the student server" in ran.error.message
    assert str(log) in ran.error.message
    assert "Unsupported CPU attention configuration: head_dim=8" in ran.error.message
    assert log.read_text().count("--- start") == 1
    assert ran.error.hint.endswith("set rollout.engine: hf")
    assert ran.status["state"] == "failed"
    assert processes_with(str(tmp_path)) == []

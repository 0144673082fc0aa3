"""`signal: topk` with a teacher behind a server: the divergence is that of the same models in plain torch."""

import pytest
from served_runs import elsewhere, run
from test_signal_run import plain_divergence

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


def test_the_likeliest_ids_of_a_served_teacher_train_the_student(vllm_student, vllm_teacher, tmp_path):
    with elsewhere(vllm_student, vllm_teacher) as both:
        signal = ["algorithm.signal=topk", "algorithm.topk=9", "algorithm.divergence=jsd"]
        limits = ["trainer.max_steps=2", "rollout.max_tokens=12"]
        ran = run(both.project(tmp_path), "served", overrides=[*signal, *limits])
        assert ran.error is None, ran.error
        first, second = ran.steps
        checks = {check["name"]: check["passed"] for check in ran.of("check")}
        assert checks["the signal of teacher 'teacher' fits"]
        values = plain_divergence(both.models, ran.traces()[1], "jsd", 9)
    assert first["divergence"] == pytest.approx(values.mean().item(), rel=1e-3)
    got = [value for record in ran.traces()[1] for value in record["divergence"] if value is not None]
    assert got == pytest.approx(values.tolist(), abs=2e-3)
    assert second["divergence"] < first["divergence"]

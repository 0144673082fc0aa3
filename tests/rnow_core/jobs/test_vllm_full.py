"""Full fine-tuning behind a vLLM server: every step's whole model is loaded in place."""

import pytest
from served_runs import STEPS, assert_complete, elsewhere, run

pytestmark = [pytest.mark.vllm, pytest.mark.xdist_group("vllm")]


def test_every_step_samples_from_the_weights_of_the_step_before(vllm_student, vllm_teacher, tmp_path):
    """`mismatch_kl` compares the server's logprobs with the learner's: old weights would show at this rate."""
    with elsewhere(vllm_student, vllm_teacher) as both:
        project = both.project(
            tmp_path,
            model={"qlora_rank": 0},
            rollout={"url": None, "engine": "vllm"},
            trainer={"learning_rate": 0.003, "save_step": -1},
        )
        ran = run(project, "full")
    assert_complete(ran, STEPS)
    policies = [{one["policy"] for one in rollouts} for _, rollouts in sorted(ran.traces().items())]
    assert policies == [{f"student-{step:06d}"} for step in range(STEPS)]
    kl = [metrics["teacher_kl"] for metrics in ran.steps]
    assert kl[-1] < kl[0]

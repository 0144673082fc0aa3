"""What the tests of runs on vLLM servers share."""

import pytest
from served_runs import STEPS, assert_complete, elsewhere, run


@pytest.fixture(scope="session")
def undisturbed(vllm_student, vllm_teacher, tmp_path_factory):
    """The run on the session's servers that disturbed ones are compared with."""
    with elsewhere(vllm_student, vllm_teacher) as both:
        ran = run(both.project(tmp_path_factory.mktemp("undisturbed")), "undisturbed")
    assert_complete(ran, STEPS)
    return ran

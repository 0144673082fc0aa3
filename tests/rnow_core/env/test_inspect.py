"""What `validate` learns about a rewards.py, from a real worker process."""

import sys

import pytest

from rnow_core.env.rewards import inspect_rewards
from rnow_core.errors import FindingsError

GOOD = """
    from helper import half
    from rnow.core import reward, RewardArgs, get_response

    print("noise on stdout")

    @reward
    def accuracy(args: RewardArgs, messages: list) -> float:
        return half()

    @reward(precondition=True, timeout=5)
    async def formatted(args, messages):
        return 1.0
"""


def finding(folder):
    with pytest.raises(FindingsError) as caught:
        inspect_rewards(folder)
    (only,) = caught.value.findings
    assert only.severity == "error"
    return only


def test_rewards_by_name_in_order(project):
    found = inspect_rewards(project(GOOD, helper="def half(): return 0.5"))
    assert list(found) == ["accuracy", "formatted"]
    assert (found["accuracy"].file, found["accuracy"].line) == ("rewards.py", 7)
    gate = found["formatted"]
    assert (gate.precondition, gate.timeout, gate.is_async) == (True, 5, True)
    assert "helper" not in sys.modules


def test_a_file_without_rewards(project):
    assert inspect_rewards(project("x = 1")) == {}


def test_no_file(tmp_path):
    only = finding(tmp_path)
    assert (only.code, only.file) == ("RN231", "rewards.py")
    assert "@reward" in only.hint


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("x = 1\ndef broken(:\n", 2, "SyntaxError"),
        ("import json\n\nimport not_installed_anywhere\n", 3, "ModuleNotFoundError: No module named"),
        ("def f():\n    return 1 / 0\n\nf()\n", 2, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)\n", 2, "SystemExit"),
        ("from rnow import reward\n\n@reward\ndef f(messages): ...\n", 3, "expected two parameters"),
        ("from rnow import reward\n\n@reward\nclass F: ...\n", 3, "expects a function"),
        ("from rnow.core import llm_judge\n", 1, "not available yet"),
    ],
)
def test_what_is_wrong_and_where(project, source, line, message):
    only = finding(project(source))
    assert (only.code, only.file, only.line) == ("RN232", "rewards.py", line)
    assert message in only.message


def test_an_error_in_a_neighbour_names_the_neighbour(project):
    only = finding(project("import helper", helper="\n\nraise ValueError('no')"))
    assert (only.file, only.line) == ("helper.py", 3)
    assert "ValueError: no" in only.message


def test_a_process_that_ends_without_a_word(project):
    only = finding(project("import os, sys\nprint('last words', flush=True)\nos._exit(3)"))
    assert only.code == "RN232"
    assert "last words" in only.hint


def test_project_files_cannot_stand_in_for_modules_of_the_worker(project):
    folder = project("from rnow import reward", json="raise ValueError", asyncio="raise ValueError")
    assert inspect_rewards(folder) == {}

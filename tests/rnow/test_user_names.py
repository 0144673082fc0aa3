"""What user projects import from rnow."""

import subprocess
import sys

import pytest

import rnow
import rnow.core
from rnow_core.env import define
from rnow_core.env.runner import toolkit


@pytest.mark.parametrize("name", ["reward", "RewardArgs", "get_response"])
def test_both_spellings_give_the_same(name):
    assert getattr(rnow, name) is getattr(rnow.core, name) is getattr(define, name)


@pytest.mark.parametrize("name", ["tool", "ToolArgs"])
def test_tools_too(name):
    assert getattr(rnow, name) is getattr(rnow.core, name) is getattr(toolkit, name)


@pytest.mark.parametrize("module", ["rnow", "rnow.core"])
@pytest.mark.parametrize("name", ["llm_judge"])
def test_names_of_later_versions_say_so(module, name):
    with pytest.raises(ImportError, match=f"{name} is not available yet"):
        exec(f"from {module} import {name}")


@pytest.mark.parametrize("module", ["rnow", "rnow.core"])
def test_other_names_are_unknown(module):
    with pytest.raises(ImportError, match="cannot import name 'rewards'"):
        exec(f"from {module} import rewards")


def test_import_rnow_loads_nothing_else():
    code = "import sys; import rnow; print([name for name in sys.modules if name.startswith('rnow')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['rnow']"


def test_user_names_load_without_torch():
    code = "import sys; from rnow import reward; print([m for m in ('torch', 'pydantic', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

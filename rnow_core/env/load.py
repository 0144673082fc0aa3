"""Load a project's rewards.py, inside the worker process: whatever is wrong with it becomes one finding."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnow_core.env.define import REGISTERED, RewardDefinitionError, RewardInfo
from rnow_core.errors import Finding, FindingsError

REWARDS_FILE = "rewards.py"
BROKEN = "RN232"


def load_rewards(project: Path) -> dict[str, tuple[RewardInfo, Callable[..., Any]]]:
    """Run the project's rewards.py; its rewards by name, in order of definition.

    The project's folder must be the current one; it is put first on sys.path, so that rewards.py can import
    its neighbours. Raises FindingsError (RN232) with the line that failed.
    """
    sys.path.insert(0, str(project))
    path = project / REWARDS_FILE
    spec = importlib.util.spec_from_file_location("rewards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rewards"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # sys.exit() in user code would end the worker without a word
        traceback.print_exc()
        raise FindingsError([_finding(error, project)]) from error
    return REGISTERED


def place_in_project(error: BaseException, project: Path) -> tuple[str, int] | None:
    """File (relative to the project) and line of the innermost frame of the project's own code."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(project) and "site-packages" not in path.parts and frame.lineno is not None:
            return str(path.relative_to(project)), frame.lineno
    return None


def _finding(error: BaseException, project: Path) -> Finding:
    if isinstance(error, RewardDefinitionError):
        return Finding(BROKEN, "error", error.message, error.hint, error.file, error.line)
    if isinstance(error, SyntaxError):
        file = Path(error.filename or REWARDS_FILE)
        shown = str(file.relative_to(project)) if file.is_relative_to(project) else str(file)
        return Finding(
            BROKEN, "error", f"{type(error).__name__}: {error.msg}", "", shown, error.lineno, error.offset
        )
    file_name, line = place_in_project(error, project) or (REWARDS_FILE, None)
    hint = "install it where rnow is installed" if isinstance(error, ModuleNotFoundError) else ""
    return Finding(
        BROKEN, "error", f"importing it raised {type(error).__name__}: {error}", hint, file_name, line
    )

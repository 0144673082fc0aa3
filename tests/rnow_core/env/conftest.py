import sys
import textwrap
from pathlib import Path

import pytest

from rnow_core.env import define

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def project(tmp_path):
    """Write a project with this rewards.py; returns its folder."""

    def write(source, **other_files):
        folder = tmp_path / "project"
        folder.mkdir(exist_ok=True)
        (folder / "rewards.py").write_text(textwrap.dedent(source))
        for name, text in other_files.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        return folder

    return write


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(define, "REGISTERED", {})

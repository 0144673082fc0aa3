"""A project folder in front of the suite's container engine."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sandbox_project import Project


@pytest.fixture
def engine(container_engine):
    return container_engine


@pytest.fixture
def project(engine, tmp_path):
    return Project(tmp_path / "project")

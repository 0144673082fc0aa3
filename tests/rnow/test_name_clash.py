import json
import os
import subprocess
import sys

import pytest

from rnow.clash import stop_on_name_clash
from rnow_core.errors import EnvironmentMissing


@pytest.fixture
def other_project(tmp_path):
    """A folder on the import path where the other project's distribution is installed."""
    info = tmp_path / "site" / "rnow-0.4.37.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rnow\nVersion: 0.4.37\n")
    return info.parent


def test_every_command_stops_with_exit_3_and_the_fix(other_project):
    env = {**os.environ, "PYTHONPATH": str(other_project)}
    for args in (["--help"], ["run"], ["schema", "--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "rnow", *args], env=env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 3
        assert "0.4.37" in done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert "fresh virtual environment" in error["hint"]
    assert str(other_project) in error["message"]


def test_our_own_distribution_is_no_clash(tmp_path):
    (tmp_path / "rnow_distill-0.1.0.dist-info").mkdir()
    stop_on_name_clash([str(tmp_path), str(tmp_path / "absent"), "somewhere.zip"])
    stop_on_name_clash()


def test_the_folder_is_found_wherever_it_is_on_the_path(tmp_path, other_project):
    with pytest.raises(EnvironmentMissing, match=r"0\.4\.37"):
        stop_on_name_clash([str(tmp_path), str(other_project)])

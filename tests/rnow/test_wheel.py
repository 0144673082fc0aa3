"""The built wheel in an environment of its own."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*args, cwd, **env):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(arg) for arg in args], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel; the dependencies come from this one, through a .pth file."""
    home = tmp_path_factory.mktemp("clean") / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=home)
    [site] = home.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_has_the_assets_and_no_leftovers(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "rnow/_bundled/skills/quickstart/SKILL.md" in names
    assert any(name.startswith("rnow/_bundled/templates/quickstart/") for name in names)
    assert "rnow/py.typed" in names
    assert "rnow_core/py.typed" in names
    assert [name for name in names if name.endswith(".pyc") or name.startswith(("tests/", "runs/"))] == []


def test_the_installed_command_sets_up_a_project(installed, tmp_path):
    where = call(installed / "python", "-c", "import rnow; print(rnow.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(installed.parent)
    answer = json.loads(call(installed / "rnow", "init", "quickstart", "proj", "--json", cwd=tmp_path))
    assert "config.yml" in answer["created"]
    assert "from rnow" in call("cat", tmp_path / "proj" / "rewards.py", cwd=tmp_path)
    assert (tmp_path / "proj/.claude/skills/quickstart/SKILL.md").is_file()


def test_the_installed_command_reads_its_own_schema(installed, tmp_path):
    assert json.loads(call(installed / "rnow", "schema", cwd=tmp_path))["properties"]["model"]
    assert call(installed / "rnow", "--version", cwd=tmp_path).startswith("rnow ")


def test_a_checkout_finds_its_assets(tmp_path):
    code = "from rnow.assets import asset_root; print(asset_root())"
    found = call(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)).strip()
    assert Path(found) == ROOT

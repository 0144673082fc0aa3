import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rnow.guard import guarded

SCRIPTED = Path(__file__).with_name("scripted_run.py")


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def rnow(capsys, tmp_path, monkeypatch):
    """Run `rnow ARGS` in this process, in an empty working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*args):
        capsys.readouterr()
        code = guarded([str(arg) for arg in args])
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """An installation of its own, with one template and the skill that owns it."""
    root = tmp_path / "installation"
    template, skill = root / "templates" / "tiny", root / "skills" / "tiny-skill"
    template.mkdir(parents=True)
    skill.mkdir(parents=True)
    (template / "config.yml.j2").write_text(
        "project_name: {{ project.name }}\nmodel: {path: {{ skill.student }}}\n"
        "seed: {{ defaults.seed }}\nlr: {{ defaults.trainer.learning_rate }}\n"
    )
    (template / "CLAUDE.md.j2").write_text("## Setup\n\n{{ skill.section('Setup') }}\n")
    (template / "data").mkdir()
    (template / "data" / "raw.bin").write_bytes(b"\x00\xff{{ not.rendered }}\r\n")
    (template / "go.sh").write_text("#!/bin/sh\n")
    (template / "go.sh").chmod(0o755)
    (template / "__pycache__").mkdir()
    (template / "__pycache__" / "x.pyc").write_bytes(b"x")
    (skill / "SKILL.md").write_text(
        "---\nname: tiny-skill\ndescription: Try the tiny one. Use when testing.\n"
        "metadata:\n  template: tiny\n  student: ./student\n---\n"
        "# Tiny\n\n## Setup\n\nInstall it.\n\n## Quick start\n\n"
        "```bash\npython prepare.py  # make data\nrnow run\n```\n"
    )
    monkeypatch.setattr("rnow.assets.PACKAGE", root / "rnow")
    return root


@pytest.fixture
def scripted():
    """The command line of `rnow ARGS` with a scripted engine; see scripted_run.py."""

    def command(scenario, *args):
        return [sys.executable, str(SCRIPTED), scenario, *args]

    return command


@pytest.fixture
def run_scripted(scripted, tmp_path):
    """Run a scripted `rnow` to its end with pipes for stdout and stderr."""

    def call(scenario, *args, **env):
        done = subprocess.run(
            scripted(scenario, *args),
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call

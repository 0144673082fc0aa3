"""`rnow doctor`: what it calls missing, what it calls a warning, and that it tells no secret."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest
from tiny import row, write_config, write_rows

from rnow_core.jobs import doctor

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without GPU, containers, bubblewrap, tokens and optional packages."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    for name in doctor.TOKEN_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    without(monkeypatch, *doctor.EXTRAS)
    return programs


def without(monkeypatch, *names):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in names else find_spec(name))


def states(done):
    return {check["name"]: check["state"] for check in json.loads(done.out)["checks"]}


def hints(done):
    return {check["name"]: check["hint"] for check in json.loads(done.out)["checks"]}


def program(folder, name, text):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_outside_a_project_only_python_and_the_training_packages_are_needed(rnow, machine):
    done = rnow("doctor", "--json")
    assert done.code == 0
    found = states(done)
    assert {name for name, state in found.items() if state == "ok"} >= {"name", "python", "train"}
    assert {name for name, state in found.items() if state == "warning"} >= {
        "gpu",
        "vllm",
        "wandb",
        "mcp",
        "containers",
        "bubblewrap",
        "hf token",
    }
    assert "missing" not in found.values()
    assert "project" not in found
    assert hints(done)["mcp"] == 'pip install "rnow-distill[mcp]"'


def test_missing_training_packages_are_exit_3_with_the_command_that_helps(rnow, machine, monkeypatch):
    without(monkeypatch, "torch", "peft")
    done = rnow("doctor")
    assert done.code == 3
    lines = done.out.splitlines()
    [place] = [at for at, line in enumerate(lines) if line.startswith("missing  train")]
    assert "torch, peft" in lines[place]
    assert 'pip install "rnow-distill[train]"' in lines[place + 1]
    assert lines[-1].startswith("1 needed and missing")
    assert json.loads(rnow("doctor", "--json").out)["ok"] is False


def make_project(folder, tools="", rows=(), **sections):
    folder.mkdir()
    (folder / "tools.py").write_text(tools)
    write_rows(folder / "train.jsonl", list(rows) or [row("1+1=?")])
    write_config(folder, **sections)
    return folder


SANDBOXED = "from rnow import tool\n@tool(sandbox=True)\ndef look(): ...\n"


@pytest.mark.parametrize(
    ("project", "missing"),
    [
        ({}, set()),
        ({"rollout": {"engine": "vllm"}}, {"vllm"}),
        ({"rollout": {"engine": "vllm", "url": "http://localhost:1"}}, set()),
        ({"logging": {"wandb_project": "p"}}, {"wandb"}),
        ({"tools": SANDBOXED}, {"bubblewrap"}),
        ({"tools": SANDBOXED, "rows": [row("?", docker="busybox")]}, {"containers"}),
        ({"rows": [row("?", docker="busybox")]}, set()),
        ({"sandbox": {"secrets": ["SOME_KEY"]}}, {"secret"}),
    ],
)
def test_what_a_project_asks_for_is_needed(rnow, machine, tmp_path, project, missing):
    folder = make_project(tmp_path / "project", **project)
    (folder / "below").mkdir()
    done = rnow("doctor", "--json", "--dir", folder / "below")
    found = states(done)
    assert {name for name, state in found.items() if state == "missing"} == missing
    assert found["project"] == "ok"
    assert done.code == (3 if missing else 0)


def test_a_broken_config_is_told_and_what_it_would_need_is_not_guessed(rnow, machine, tmp_path):
    folder = make_project(tmp_path / "project")
    (folder / "config.yml").write_text("dataset_typ: distill\n")
    done = rnow("doctor", "--dir", folder)
    assert done.code == 0
    assert "config.yml has " in done.out
    assert "rnow validate" in done.out


def test_tokens_and_secrets_are_named_and_never_shown(rnow, machine, tmp_path, monkeypatch):
    folder = make_project(tmp_path / "project", sandbox={"secrets": ["SOME_KEY"]})
    (folder / ".env").write_text("HF_TOKEN=hf_confidential\n")
    monkeypatch.setenv("SOME_KEY", "confidential")
    for form in ([], ["--json"]):
        said = rnow("doctor", "--dir", folder, *form)
        assert said.code == 0
        assert "HF_TOKEN" in said.out
        assert "SOME_KEY" in said.out
        assert "confidential" not in said.out + said.err


def test_a_gpu_that_torch_cannot_use_is_missing_something(rnow, machine, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program(machine, "nvidia-smi", "echo '0, GPU-1, 81920'; echo '1, GPU-2, 81920'")
    monkeypatch.setattr(doctor, "_ASK_TORCH", "print(0)")
    done = rnow("doctor", "--json")
    assert (done.code, states(done)["gpu"], states(done)["torch"]) == (3, "ok", "missing")
    assert "2 GPUs: 80 GiB, 80 GiB" in done.out
    monkeypatch.setattr(doctor, "_ASK_TORCH", "raise SystemExit('libcuda is broken')")
    assert "libcuda is broken" in rnow("doctor").out
    monkeypatch.setattr(doctor, "_ASK_TORCH", "print(2)")
    done = rnow("doctor", "--json")
    assert (done.code, states(done)["torch"]) == (0, "ok")


def test_torch_is_not_imported_and_the_question_to_it_is_valid(tmp_path):
    code = (
        "import sys\nfrom rnow.guard import guarded\nguarded(['doctor'])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    asked = subprocess.run([sys.executable, "-c", doctor._ASK_TORCH], capture_output=True, text=True)
    assert asked.stdout.strip().isdecimal()


def test_a_folder_that_is_not_there(rnow):
    done = rnow("doctor", "--dir", "absent")
    assert done.code == 2
    assert "There is no folder absent" in done.err

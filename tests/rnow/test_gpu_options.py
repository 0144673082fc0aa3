"""Where roles go, as a person asks for it and reads it. The machine's GPUs are those of a stand-in nvidia-smi."""

import json
import os

import pytest
import torch
from tiny import make_project

from rnow_core.build import fixed

LISTING = "#!/bin/sh\n" + "".join(f"echo '{i}, GPU-{i}aaaa-bbbb, 81559'\n" for i in range(4))


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Four GPUs of 80 GB, and vLLM as the engine."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(LISTING)
    (tools / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path / "project", rollout={"engine": "vllm", "max_tokens": 8})


def test_the_plan_says_who_works_where(rnow, gpus, project):
    done = rnow("validate", project)
    assert done.code == 0, done.out
    assert "samples on GPU 0; teacher on GPU 1; trains on GPU 2,3; 2 training ranks" in done.out
    assert "trainer.async_level: 1" in done.out


def test_options_name_gpus_and_parallelism(rnow, gpus, project):
    options = [
        "--inference-gpus",
        "0,1",
        "--teacher-gpus",
        "2",
        "--trainer-gpus",
        "3",
        "--inference-tensor-parallel",
        "2",
    ]
    done = rnow("validate", project, *options, "--json")
    placement = json.loads(done.out)["plan"]["placement"]
    assert placement["inference"] == {"gpus": [0, 1], "tensor": 2, "data": 1}
    assert (placement["teacher"]["gpus"], placement["trainer"]) == ([2], [3])
    shown = rnow("run", "--dir", project, "--dry-run", *options)
    assert "samples on GPU 0,1 (tensor parallel 2)" in shown.out


def test_visible_devices_are_what_counts(rnow, gpus, project, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    done = rnow("validate", project, "--json")
    placement = json.loads(done.out)["plan"]["placement"]
    assert (placement["sharing"], placement["trainer"]) == ("split", [0])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert json.loads(rnow("validate", project, "--json").out)["plan"]["placement"]["trainer"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer-gpus", "0,x"], ["--trainer-gpus takes GPU numbers", "0,x"]),
        (["--trainer-gpus", ""], ["--trainer-gpus takes GPU numbers"]),
    ],
)
def test_what_is_no_list_of_gpus_is_a_usage_error(rnow, project, options, words):
    done = rnow("validate", project, *options)
    assert done.code == 2
    assert all(word in done.err for word in words)


def test_a_gpu_that_is_not_there_is_a_finding(rnow, gpus, project):
    done = rnow("validate", project, "--trainer-gpus", "7", "--json")
    assert done.code == 1
    (finding,) = [f for f in json.loads(done.out)["findings"] if f["severity"] == "error"]
    assert finding["code"] == "RN412"
    assert "GPU 7" in finding["message"]
    assert "4 GPU(s)" in finding["message"]


def test_a_gpu_that_torch_cannot_use_stops_the_run_with_the_fix(rnow, gpus, project, monkeypatch):
    monkeypatch.setattr(fixed, "pick_device", lambda: torch.device("cpu"))
    done = rnow("run", "--dir", project)
    assert done.code == 3
    assert "torch cannot use it" in done.err
    assert "CUDA_VISIBLE_DEVICES=" in done.err

"""What `validate` says of the machine, and what the plan says of the run."""

import json
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from rnow_core.preflight import machine, plan
from rnow_core.preflight.codes import CODES

WITHOUT_TRAINING = """
import sys
for name in ("torch", "transformers", "peft", "safetensors", "numpy"):
    sys.modules[name] = None
sys.argv = ["rnow", *sys.argv[1:]]
from rnow.__main__ import main
sys.exit(main())
"""


@pytest.fixture
def without_training(project):
    """The command line where the training packages cannot be imported."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_TRAINING, *arguments],
            cwd=project.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_validate_works_without_the_training_packages(without_training, project):
    done = without_training("validate", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] is True
    (finding,) = report["findings"]
    assert (finding["code"], finding["severity"]) == ("RN401", "warning")
    assert "torch, transformers, peft, safetensors, numpy" in finding["message"]
    assert finding["hint"] == 'pip install "rnow-distill[train]"'
    assert report["plan"] == json.loads(json.dumps(project.check().plan)) | {
        "disk_available": report["plan"]["disk_available"]
    }


def test_run_without_the_training_packages_is_a_missing_environment(without_training, project):
    done = without_training("run")
    assert done.returncode == 3
    assert 'pip install "rnow-distill[train]"' in done.stderr
    assert not (project.folder / "runs").exists()


def test_missing_wandb_is_said_where_it_is_asked_for(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert project.findings() == []
    finding = project.finding("logging.wandb_project=tests")
    assert (finding.code, finding.path) == ("RN401", "logging.wandb_project")
    assert finding.hint == 'pip install "rnow-distill[wandb]"'


def test_too_little_memory(project, monkeypatch):
    monkeypatch.setattr(plan, "machine_memory", lambda: 100_000)
    finding = project.finding()
    assert (finding.code, finding.severity) == ("RN410", "warning")
    assert "activations" in finding.message
    assert project.check().ok


def test_too_little_disk(project, monkeypatch):
    usage = namedtuple("Usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    finding = project.finding()
    assert (finding.code, finding.severity, finding.path) == ("RN411", "warning", "trainer.save_step")
    assert "checkpoints" in finding.message
    assert str(project.folder / "runs") in finding.message


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.max_steps=4", "trainer.save_step=-1"], 2),
        (["trainer.max_steps=3", "trainer.save_step=1"], 4),
        (["trainer.max_steps=3", "trainer.save_step=2"], 3),
        (["trainer.max_steps=3", "trainer.save_step=3"], 2),
        (["trainer.max_steps=3", "trainer.save_step=1", "trainer.eval_step=1"], 4),
        (["trainer.max_steps=3", "trainer.save_step=2", "trainer.eval_step=1"], 5),
    ],
)
def test_number_of_checkpoints(project, overrides, expected):
    assert project.check(*overrides).plan["checkpoints"] == expected


def test_free_disk_of_a_folder_that_does_not_exist_yet(tmp_path):
    assert machine.free_disk(tmp_path / "a" / "b") > 0


def test_the_plan_is_json_and_counts_what_the_run_will_do(project):
    report = project.check(
        "data.batch_size=5", "data.group_size=3", "trainer.max_steps=null", "trainer.num_epochs=2"
    )
    assert json.loads(json.dumps(report.plan)) == report.plan
    assert {name: report.plan[name] for name in ("rows", "held_out_rows", "steps", "rollouts_per_step")} == {
        "rows": 12,
        "held_out_rows": 6,
        "steps": 6,
        "rollouts_per_step": 15,
    }
    assert report.plan["max_tokens_per_step"] == 15 * 8
    assert report.plan["memory"]["total"] > 0


def test_findings_are_unique_errors_first_and_have_known_codes(project):
    project.rows("{", file="val.jsonl")
    found = project.check("rollout.reasoning_mode=disabled", "teacher.path=./nowhere").findings
    assert len(found) == len(set(found))
    severities = [("error", "warning", "info").index(finding.severity) for finding in found]
    assert severities == sorted(severities)
    assert {f.code for f in found if f.code >= "RN220"} <= CODES.keys()


def test_files_are_named_from_the_project(project, monkeypatch):
    monkeypatch.chdir(project.folder.parent)
    from rnow_core.preflight.check import check_project

    def files(*overrides):
        return [f.file for f in check_project(project.folder.relative_to(Path.cwd()), overrides).findings]

    (project.folder / "teacher" / "tokenizer.json").unlink()
    assert files() == ["config.yml"]
    (project.folder / "config.yml").write_text("dataset_type: distil\n")
    assert set(files()) == {"config.yml"}


def test_every_code_in_the_sources_is_listed_and_the_other_way_round():
    sources = "".join(
        path.read_text() for path in Path(machine.__file__).parent.glob("*.py") if path.name != "codes.py"
    )
    assert set(re.findall(r"\"(RN[234]\d\d)\"", sources)) == CODES.keys()

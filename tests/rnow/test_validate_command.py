import json
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rnow_core.errors import Finding, FindingsError

BAD = Finding(
    "RN103", "error", "the rate is negative", "use 1e-4", "config.yml", 2, 18, "trainer.learning_rate"
)
WARNING = Finding("RN132", "warning", "sampling is biased")
PLAN = {
    "rows": 12000,
    "steps": 3,
    "teacher": None,
    "memory": {"student": 3 * 2**29},
    "memory_available": 2**30,
}


@dataclass
class Report:
    findings: list[Finding] = field(default_factory=list)
    plan: dict = field(default_factory=dict)
    ok: bool = True


@pytest.fixture
def engine(monkeypatch):
    """The engine's checks replaced: `answer` is what they return or raise, `asked` what they got."""
    module = types.ModuleType("rnow_core.preflight.check")
    module.answer, module.asked = Report([WARNING], PLAN), None

    def check_project(project_dir, overrides):
        module.asked = (project_dir, overrides)
        if isinstance(module.answer, Exception):
            raise module.answer
        return module.answer

    module.check_project = check_project
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    return module


def test_a_good_project_is_exit_0_with_a_verdict_and_the_plan(rnow, engine):
    done = rnow("validate")
    assert done.code == 0
    assert "warning[RN132] sampling is biased" in done.out
    assert "ok: a run can start (1 warning)" in done.out
    assert "rows              12,000" in done.out
    assert "memory.student    1.50 GiB" in done.out
    assert "memory_available  1.00 GiB" in done.out
    assert "None" not in done.out
    assert "\x1b" not in done.out


def test_findings_show_the_source_with_a_caret_and_the_fix(rnow, engine):
    Path("proj").mkdir()
    Path("proj/config.yml").write_text("trainer:\n  learning_rate: -1\n")
    engine.answer = Report([BAD, WARNING, WARNING], PLAN, ok=False)
    done = rnow("validate", "proj")
    assert done.code == 1
    assert done.out.splitlines()[:4] == [
        "config.yml:2:18: error[RN103] trainer.learning_rate: the rate is negative",
        "      learning_rate: -1",
        "    " + " " * 17 + "^",
        "    hint: use 1e-4",
    ]
    assert "not ok: a run cannot start (1 error, 2 warnings)" in done.out


def test_a_file_may_be_named_from_the_working_directory(rnow, engine):
    Path("proj").mkdir()
    Path("proj/config.yml").write_text("seed: x\n")
    engine.answer = Report([Finding("RN103", "error", "bad", "", "proj/config.yml", 1, 7)], {}, ok=False)
    assert rnow("validate", "proj").out.splitlines()[1:3] == ["    seed: x", "          ^"]


def test_a_long_line_is_cut_around_its_caret(rnow, engine):
    Path("train.jsonl").write_text("x" * 500 + "!" + "y" * 500 + "\n")
    engine.answer = Report(
        [Finding("RN203", "error", "bad", file="train.jsonl", line=1, col=501)], {}, ok=False
    )
    _, source, caret, *_ = rnow("validate").out.splitlines()
    assert len(source) <= 104
    assert source[caret.index("^")] == "!"


def test_json_has_everything(rnow, engine):
    engine.answer = Report([BAD], PLAN, ok=False)
    done = rnow("validate", "--json")
    assert done.code == 1
    assert json.loads(done.out) == {"ok": False, "findings": [BAD.as_dict()], "plan": PLAN}
    assert done.err == ""


def test_raised_findings_are_findings(rnow, engine):
    engine.answer = FindingsError([BAD])
    assert json.loads(rnow("validate", "--json").out) == {
        "ok": False,
        "findings": [BAD.as_dict()],
        "plan": {},
    }
    assert rnow("validate").code == 1


def test_folder_and_overrides_come_in_any_order(rnow, engine):
    Path("proj").mkdir()
    rnow("validate", "a.b=1", "proj", "c=x=y")
    assert engine.asked == (Path("proj"), ["a.b=1", "c=x=y"])
    rnow("validate")
    assert engine.asked == (Path(), [])


def test_a_dry_run_is_validate(rnow, engine):
    Path("proj").mkdir()
    assert rnow("run", "--dry-run", "--dir", "proj", "seed=1").out == rnow("validate", "proj", "seed=1").out
    assert engine.asked == (Path("proj"), ["seed=1"])
    engine.answer = Report([BAD], {}, ok=False)
    assert rnow("run", "--dry-run").code == 1

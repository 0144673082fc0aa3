"""What `validate` says of rewards.py and of rows that name rewards."""

import pytest
from tiny import row

WANTING = row("1+1=?")
BARE = row("1+2=?", rewards=None)


def test_rows_without_rewards_need_no_rewards_file(project):
    (project.folder / "rewards.py").unlink()
    assert project.findings() == []


def test_missing_file(project):
    project.rows(WANTING)
    (project.folder / "rewards.py").unlink()
    finding = project.finding()
    assert (finding.code, finding.file) == ("RN231", "rewards.py")
    assert "@reward" in finding.hint


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("x = 1\ny = 1 / 0\n", 2, "ZeroDivisionError"),
        ("x = (\n", 1, "SyntaxError"),
        ("\nimport not_a_package\n", 2, "not_a_package"),
        ("from rnow import reward\n\n\n@reward\ndef short(args):\n    return 1.0\n", 4, "two parameters"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit"),
    ],
)
def test_broken_file(project, text, line, said):
    project.rows(WANTING)
    (project.folder / "rewards.py").write_text(text)
    finding = project.finding()
    assert (finding.code, finding.severity) == ("RN232", "error")
    assert (finding.file, finding.line) == ("rewards.py", line)
    assert said in finding.message


def test_unknown_names_are_errors_of_their_rows(project):
    project.rows(BARE, row("a", rewards=["short", "shrt"]), row("b", rewards=["long"]))
    found = project.findings()
    assert [(f.code, f.file, f.line, f.path) for f in found] == [
        ("RN230", "train.jsonl", 2, "rewards[1]"),
        ("RN230", "train.jsonl", 3, "rewards[0]"),
    ]
    assert all("short" in finding.hint for finding in found)


def test_a_file_without_rewards_has_none_of_the_wanted_names(project):
    project.rows(WANTING)
    (project.folder / "rewards.py").write_text("x = 1\n")
    finding = project.finding()
    assert (finding.code, finding.line) == ("RN230", 1)
    assert "no function with @reward" in finding.hint


@pytest.mark.parametrize(
    "sections",
    [{"dataset_type": "rl", "teacher": None}, {"algorithm": {"adv_tau": 0.5}}],
    ids=["rl", "adv_tau"],
)
def test_training_on_rewards_needs_them_in_every_row(project, sections):
    project.rows(WANTING, BARE, WANTING)
    project.config(**sections)
    finding = project.finding()
    assert (finding.code, finding.severity) == ("RN211", "error")
    assert (finding.file, finding.line, finding.path) == ("train.jsonl", 2, "rewards")


def test_plain_distillation_does_not(project):
    project.rows(WANTING, BARE)
    report = project.check()
    assert report.findings == []
    assert list(report.project.rewards) == ["short"]

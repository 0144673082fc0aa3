"""What `validate` says of rows that name built-in verifiers."""

import pytest
from tiny import row


def test_rows_of_built_in_verifiers_need_no_rewards_file(project):
    project.rows(row("1+1=?", rewards=["exact", "numeric"], metadata={"answer": 2}))
    (project.folder / "rewards.py").unlink()
    report = project.check()
    assert [finding for finding in report.findings if finding.severity != "info"] == []
    assert list(report.project.rewards) == ["exact", "numeric"]


@pytest.mark.parametrize(
    ("reward", "metadata", "said"),
    [
        ("exact", {}, "no metadata.answer"),
        ("numeric", {"answer": "many"}, "no number in the answer"),
        ("multiple_choice", {"answer": "Paris"}, "one letter"),
        ("math", {"answer": " "}, "empty"),
        ("exact", {"answer": [["a"]]}, "metadata.answer"),
    ],
)
def test_an_answer_that_a_verifier_cannot_use_is_an_error_of_its_row(
    project, monkeypatch, reward, metadata, said
):
    monkeypatch.setattr("rnow_core.env.verifiers.mathematics.find_spec", lambda name: name)
    project.rows(
        row("a", rewards=["exact"], metadata={"answer": "b"}), row("c", rewards=[reward], metadata=metadata)
    )
    finding = project.finding()
    assert (finding.code, finding.file, finding.line) == ("RN233", "train.jsonl", 2)
    assert said in finding.message


def test_a_missing_package_is_a_warning_that_names_the_extra(project, monkeypatch):
    monkeypatch.setattr("rnow_core.env.verifiers.mathematics.find_spec", lambda name: None)
    project.rows(row("1+1=?", rewards=["math"], metadata={"answer": 2}))
    finding = project.finding()
    assert (finding.code, finding.severity) == ("RN401", "warning")
    assert "rnow-distill[math]" in finding.hint


def test_ending_at_a_closed_gap_needs_a_gap_and_evaluations(project):
    project.config(eval={"stop_at_gap_closed": 100, "group_size": 1})
    assert sorted((f.code, f.hint) for f in project.findings()) == [
        ("RN127", "set teacher.eval_baseline: true"),
        ("RN127", "set trainer.eval_step"),
    ]
    project.config(
        eval={"stop_at_gap_closed": 100, "group_size": 1},
        teacher={"eval_baseline": True},
        trainer={"eval_step": 1},
    )
    assert project.findings() == []

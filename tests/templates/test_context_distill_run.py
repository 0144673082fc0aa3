"""The context-distill template from `rnow init` to a student that needs no context, with a tiny model on a CPU."""

import json
import re

import pytest
import torch
from context_distill import (
    EXPERT,
    SKILL,
    commented_blocks,
    make_corridors,
    make_project,
    make_student,
    read_rows,
    teach,
)

from rnow.guard import guarded
from rnow.skills import load_skill

FAST = (
    *("teacher.context_file=expert.txt", "data.batch_size=40", "rollout.max_tokens=8", "eval.group_size=16"),
    *(
        "trainer.learning_rate=4e-3",
        "trainer.lr_schedule=linear",
        "trainer.num_epochs=40",
        "trainer.max_steps=20",
    ),
)
ONE_STEP = ("data.batch_size=4", "rollout.max_tokens=8", "eval.group_size=1", "trainer.max_steps=1")
DOCUMENT = {
    "pure": ["adv_tau=0.0", "teacher_tau=1.0", "student_tau=0.5", "skip_verification=true"],
    "hybrid": ["adv_tau=0.5", "teacher_tau=0.5", "student_tau=0.5"],
}
"""The weights that descriptions of context distillation name, as they name them."""


def rnow(*words):
    assert guarded([str(word) for word in words]) == 0


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The template with levels of one row, and a student that plays them well if it is told that it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other more than they compute
    folder = make_project(tmp_path_factory.mktemp("context") / "project", "student=./student")
    make_corridors(folder)
    (folder / "expert.txt").write_text(EXPERT)
    make_student(folder)
    teach(folder, EXPERT)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(project):
    """The lines of metrics.jsonl of a whole run."""
    rnow("run", "--dir", project, "--name", "whole", *FAST)
    return lines_of(project / "runs" / "whole" / "metrics.jsonl")


def test_the_student_takes_the_context_in(project, finished):
    held_out = {row["metadata"]["level"] for row in read_rows(project / "val.jsonl")}
    assert len(held_out) == 20
    assert held_out.isdisjoint(row["metadata"]["level"] for row in read_rows(project / "train.jsonl"))
    first = next(row for row in finished if "eval/sokoban/baseline_diff" in row)
    last = [row for row in finished if "eval/sokoban/gap_closed" in row][-1]
    before, teacher = (first[f"eval/sokoban/baseline_{who}/avg"] for who in ("student", "teacher"))
    after = last["eval/sokoban/reward/mean"]
    assert 0 < before < before + 0.1 < teacher, "the student starts above zero, and the context helps"
    assert last["eval/sokoban/gap_closed"] == pytest.approx(100 * (after - before) / (teacher - before))
    assert last["eval/sokoban/gap_closed"] >= 50
    assert last["eval/sokoban/teacher_kl"] < 0.5 * next(
        row["eval/sokoban/teacher_kl"] for row in finished if "eval/sokoban/teacher_kl" in row
    )


def test_only_the_teacher_saw_the_context(project, finished):
    records = [r for f in (project / "runs/whole/rollouts").iterdir() for r in lines_of(f)]
    assert len(records) > 100
    said = EXPERT.rstrip()
    assert all(said in record["teacher_prompt_text"] for record in records)
    assert not any(said in record["prompt_text"] for record in records)


def test_the_metrics_that_the_skill_names_are_written(finished):
    written, skill = {name for row in finished for name in row}, load_skill(SKILL)
    tables = skill.section("Baseline and gap") + skill.section("Watching a run")
    cells = re.findall(r"^\| (.*?) \|", tables, re.MULTILINE)
    named = {name.replace("<env>", "sokoban") for cell in cells for name in re.findall(r"`([\w/<>]+)`", cell)}
    assert {"teacher_kl", "combined_advantage", "advantage/reward", "eval/sokoban/baseline_diff"} <= named
    assert named - written == {"_std", "advantage/reward"}, "the last one is there in hybrid mode"
    assert "advantage/teacher_std" in written


@pytest.mark.parametrize("mode", [*DOCUMENT, "commented hybrid"])
def test_weights_as_others_name_them_run_as_written(project, mode, capsys):
    """With the template's own context, through validate and one step."""
    config = (project / "config.yml").read_text()
    weights = DOCUMENT.get(mode) or [
        f"{key}={value}" for key, value in commented_blocks(config)[0]["algorithm"].items()
    ]
    overrides = [*ONE_STEP, *(f"algorithm.{weight}" for weight in weights)]
    capsys.readouterr()
    rnow("validate", project, *overrides, "--json")
    found = {finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert found == ({"RN130"} if mode == "pure" else set())
    rnow("run", "--dir", project, "--name", mode.replace(" ", "-"), *overrides)
    metrics = lines_of(project / "runs" / mode.replace(" ", "-") / "metrics.jsonl")
    (step,) = [row for row in metrics if "loss/policy" in row]
    assert ("reward/mean" in step) == ("advantage/reward_std" in step) == (mode != "pure")
    assert step["teacher_kl"] != 0

"""What `validate` says of data files."""

import pytest
from tiny import row

FINE = row("1+1=?", rewards=None)


def test_a_good_project_has_no_findings_and_a_plan(project):
    report = project.check()
    assert report.findings == []
    assert report.ok
    assert report.project is not None
    assert report.project.context_window == 128
    assert len(report.project.prompts) == 12
    assert len(report.project.eval_prompts) == 6


def test_missing_train_file(project):
    (project.folder / "train.jsonl").unlink()
    finding = project.finding()
    assert (finding.code, finding.severity, finding.file) == ("RN201", "error", "train.jsonl")
    assert "does not exist" in finding.message
    assert "data.train_file" in finding.hint


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_train_file(project, text):
    (project.folder / "train.jsonl").write_text(text)
    finding = project.finding()
    assert (finding.code, finding.file) == ("RN202", "train.jsonl")
    assert finding.hint


def test_missing_held_out_file(project):
    finding = project.finding("data.val_file=held_out.jsonl")
    assert (finding.code, finding.file) == ("RN201", "held_out.jsonl")


def test_every_bad_line_of_every_file_at_once(project):
    robot = row("x", rewards=None)
    robot["messages"][0]["role"] = "robot"
    project.rows(FINE, '{"messages": [', FINE, robot)
    project.rows(FINE, robot, file="val.jsonl")
    found = {(f.file, f.line): f for f in project.findings()}
    assert set(found) == {("train.jsonl", 2), ("train.jsonl", 4), ("val.jsonl", 2)}
    assert found["train.jsonl", 2].code == "RN204"
    role = found["train.jsonl", 4]
    assert (role.code, role.path) == ("RN208", "messages[0].role")
    assert "robot" in role.message
    assert "system, user, assistant, tool" in role.message


def test_prompt_longer_than_the_context(project):
    project.rows(FINE, row("1+" * 100, rewards=None), FINE)
    finding = project.finding()
    assert (finding.code, finding.severity) == ("RN221", "error")
    assert (finding.file, finding.line, finding.path) == ("train.jsonl", 2, "messages")
    assert "208 tokens" in finding.message
    assert "128" in finding.message


def test_prompt_as_long_as_the_context_leaves_no_token_for_the_reply(project):
    tokens = project.check().plan["prompt_tokens"]["max"]
    window = f"rollout.max_context_window={tokens}"
    assert {f.code for f in project.findings(window, "rollout.max_tokens=4")} >= {"RN221"}
    window = f"rollout.max_context_window={tokens + 1}"
    assert "RN221" not in {f.code for f in project.findings(window, "rollout.max_tokens=4")}


def test_prompts_with_little_room_are_one_warning_at_the_longest(project):
    project.rows(FINE, row("1+" * 51, rewards=None), row("1+" * 53, rewards=None))
    finding = project.finding("rollout.max_tokens=20")
    assert (finding.code, finding.severity, finding.line) == ("RN222", "warning", 3)
    assert "2 of 3 prompts" in finding.message
    assert project.check("rollout.max_tokens=20").ok


def test_held_out_rows_are_measured_with_the_evaluations_own_length(project):
    project.rows(row("1+" * 50, rewards=None), file="val.jsonl")
    assert project.findings() == []
    assert project.finding("eval.max_tokens=60").file == "val.jsonl"


def test_held_out_rows_that_are_training_rows(project):
    project.rows(FINE, row("3+3=?", rewards=None), row("9+0=?", rewards=None), file="val.jsonl")
    finding = project.finding()
    assert (finding.code, finding.severity) == ("RN223", "warning")
    assert (finding.file, finding.line) == ("val.jsonl", 1)
    assert "2 of 3" in finding.message
    assert "train.jsonl:2" in finding.message


def test_an_empty_list_of_tools_and_an_env_are_fine(project):
    project.rows({**FINE, "tools": [], "env": "sums"})
    assert project.findings() == []


def test_unknown_teacher_of_a_row(project):
    project.rows(FINE, {**FINE, "teacher": "maths"})
    finding = project.finding()
    assert (finding.code, finding.severity, finding.line) == ("RN224", "error", 2)
    assert "'maths'" in finding.message
    assert "'teacher'" in finding.hint
    assert project.findings("teacher.name=maths") == []


def test_val_split_with_one_row(project):
    project.rows(FINE)
    project.config(data={"val_file": None, "val_split": 0.5})
    finding = project.finding()
    assert (finding.code, finding.file, finding.path) == ("RN227", "config.yml", "data.val_split")
    assert finding.line > 1


def test_val_split_holds_rows_out(project):
    project.config(data={"val_file": None, "val_split": 0.25})
    report = project.check()
    assert report.ok
    assert (report.plan["rows"], report.plan["held_out_rows"]) == (9, 3)


def test_template_that_refuses_the_system_role(project):
    refusing = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    for model in ("student", "teacher"):
        project.edit_json(f"{model}/tokenizer_config.json", chat_template=refusing)
    system = {"messages": [{"role": "system", "content": "be brief"}, *FINE["messages"]]}
    project.rows(FINE, system)
    finding = project.finding()
    assert (finding.code, finding.severity) == ("RN220", "error")
    assert (finding.file, finding.line) == ("train.jsonl", 2)
    assert "System role not supported" in finding.message
    assert "first user message" in finding.hint


def test_ten_thousand_bad_rows_are_all_reported(project):
    project.rows(*["{"] * 10_000)
    found = project.findings()
    assert len(found) == 10_000
    assert found[-1].line == 10_000


def test_paths_start_from_the_project_whatever_the_working_directory(project, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert project.findings() == []
    project.rows("{")
    assert project.finding().file == "train.jsonl"
    absolute = tmp_path / "other.jsonl"
    (project.folder / "train.jsonl").rename(absolute)
    assert project.finding(f"data.train_file={absolute}").file == str(absolute)


def test_data_models_and_rewards_are_checked_in_one_go(project):
    project.rows({**FINE, "rewards": ["short", "long"]}, row("1+" * 100, rewards=None))
    (project.folder / "teacher" / "model.safetensors").write_bytes(b"")
    assert sorted(f.code for f in project.findings("rollout.max_context_window=256")) == [
        "RN221",
        "RN230",
        "RN304",
        "RN320",
    ]

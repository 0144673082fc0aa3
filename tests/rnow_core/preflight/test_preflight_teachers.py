"""What `validate` says of a teacher beside a student."""

import shutil

from tiny import CHARACTERS, SPECIAL, TEMPLATE, make_model, make_tokenizer

IDS = len(SPECIAL) + len(["user", "assistant", "system"]) + len(CHARACTERS)

THINKING = TEMPLATE.replace(
    "assistant\\n' }}{% endif %}",
    "assistant\\n' }}{% if enable_thinking is defined and not enable_thinking %}{{ '??' }}{% endif %}{% endif %}",
)


def check_place(finding, code):
    assert (finding.code, finding.severity) == (code, "error")
    assert (finding.file, finding.path) == ("config.yml", "teacher.path")
    assert finding.hint


def test_teacher_with_a_tokenizer_of_another_size(project):
    make_model(project.folder / "teacher", seed=3, characters=CHARACTERS + "!")
    finding = project.finding()
    check_place(finding, "RN310")
    assert f"it has {IDS + 1} ids, and the student's has {IDS}" in finding.message


def test_teacher_with_a_tokenizer_of_the_same_size_and_another_meaning(project):
    make_tokenizer(project.folder / "teacher", CHARACTERS[1] + CHARACTERS[0] + CHARACTERS[2:])
    finding = project.finding()
    check_place(finding, "RN310")
    assert f"both have {IDS} ids, but id 6 is 'b' for the teacher and 'a' for the student" in finding.message


def test_padded_vocabulary_is_fine(project):
    project.edit_json("teacher/config.json", vocab_size=64)
    assert project.findings() == []


def test_teacher_with_fewer_rows_than_ids(project):
    project.edit_json("teacher/config.json", vocab_size=40)
    finding = project.finding()
    check_place(finding, "RN311")
    assert f"weights for 40 ids, and the tokenizer has {IDS}" in finding.message


def test_teacher_with_a_smaller_window_than_conversations_take(project):
    project.edit_json("teacher/config.json", max_position_embeddings=20)
    finding = project.finding()
    check_place(finding, "RN312")
    assert "20 tokens" in finding.message
    assert "max_context_window: 20" in finding.hint
    assert "RN312" not in {f.code for f in project.findings("rollout.max_context_window=20")}


def test_a_smaller_window_that_is_large_enough_for_the_rows_is_fine(project):
    longest = project.check().plan["prompt_tokens"]["max"]
    project.edit_json("teacher/config.json", max_position_embeddings=longest + 10)
    assert project.findings() == []
    project.edit_json("teacher/config.json", max_position_embeddings=longest + 6)
    assert project.finding().code == "RN312"


def test_teacher_self_needs_no_folder(project):
    shutil.rmtree(project.folder / "teacher")
    (finding,) = project.findings("teacher.path=self")
    assert (finding.code, finding.severity) == ("RN134", "warning")
    assert project.check("teacher.path=self").plan["teacher_parameters"] is None


def test_teacher_that_is_the_students_folder(project):
    finding = project.finding("teacher.path=./student")
    assert (finding.code, finding.severity, finding.path) == ("RN316", "warning", "teacher.path")


def test_teacher_of_another_thinking_mode(project):
    project.edit_json("student/tokenizer_config.json", chat_template=THINKING)
    assert project.findings() == []
    finding = project.finding("rollout.reasoning_mode=disabled")
    assert (finding.code, finding.severity) == ("RN313", "warning")
    assert "assistant\\n??" in finding.message
    project.edit_json("teacher/tokenizer_config.json", chat_template=THINKING)
    assert project.findings("rollout.reasoning_mode=disabled") == []


def test_reasoning_mode_that_the_template_does_not_know(project):
    finding = project.finding("rollout.reasoning_mode=disabled")
    assert (finding.code, finding.severity) == ("RN314", "warning")
    assert finding.path == "rollout.reasoning_mode"


def test_template_without_an_end_of_turn(project):
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for model in ("student", "teacher"):
        project.edit_json(f"{model}/tokenizer_config.json", chat_template=plain, eos_token=None)
        (project.folder / model / "generation_config.json").unlink()
    finding = project.finding()
    assert (finding.code, finding.severity, finding.path) == ("RN315", "warning", "model.path")

"""What `validate` says of students that are base models: no template, another end, other marks than the teacher's."""

import pytest
from tiny import CHARACTERS, TEMPLATE, make_model

END, TEXT_END = 2, 0  # <|im_end|> and <|endoftext|> of the tiny tokenizer
OTHER_MARKS = (
    TEMPLATE.replace("<|im_start|>", "<|endoftext|>")
    .replace("<|im_end|>", "<|endoftext|>")
    .replace("assistant\\n", "a ")
)


def make_base(project, template=None):
    """Turn the student's files into those of a base model; a template of its own is optional."""
    project.edit_json("student/config.json", eos_token_id=TEXT_END)
    project.edit_json("student/generation_config.json", eos_token_id=TEXT_END)
    project.edit_json("student/tokenizer_config.json", chat_template=template)


@pytest.mark.parametrize("tokenizer_eos", ["<|endoftext|>", "<|im_end|>"])
def test_base_student_with_a_chat_template(project, tokenizer_eos):
    """Whatever its tokenizer calls eos: published base models disagree with themselves there."""
    make_base(project, TEMPLATE)
    project.edit_json("student/tokenizer_config.json", eos_token=tokenizer_eos)
    finding = project.finding()
    assert (finding.code, finding.severity, finding.path) == ("RN318", "warning", "model.path")
    assert "end a text with '<|endoftext|>'" in finding.message
    assert "ends a reply with '<|im_end|>', as the teacher does" in finding.message
    assert "stages" in finding.hint
    assert project.check().ok


def test_a_student_whose_files_know_the_end_of_turn_is_no_base_model(project):
    project.edit_json("student/config.json", eos_token_id=TEXT_END)
    project.edit_json("student/generation_config.json", eos_token_id=[TEXT_END, END])
    project.edit_json("student/tokenizer_config.json", eos_token="<|endoftext|>")
    assert project.findings() == []


def test_a_base_teacher_is_not_said_to_end_turns(project):
    make_base(project, TEMPLATE)
    project.edit_json("teacher/config.json", eos_token_id=TEXT_END)
    project.edit_json("teacher/generation_config.json", eos_token_id=TEXT_END)
    assert "as the teacher does" not in project.finding().message


def test_with_a_teacher_elsewhere_the_student_s_own_files_are_enough(project):
    make_base(project, TEMPLATE)
    found = {f.code for f in project.findings("teacher.url=http://127.0.0.1:9")}
    assert "RN318" in found
    assert "RN318" not in {f.code for f in project.findings("teacher.path=self", "teacher.context=Think.")}


def test_after_training_the_files_say_nothing(project):
    """A stage that goes on from another one, or an adapter to start from: the student is more than its files."""
    make_base(project, TEMPLATE)
    project.rows({"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]})
    stages = [{"dataset_type": "sft", "teacher": None}, {"dataset_type": "distill"}]
    project.config(stages=stages)
    assert "RN318" not in {finding.code for finding in project.check().findings}
    project.config(stages=stages[::-1])
    (finding,) = [finding for finding in project.check().findings if finding.code == "RN318"]
    assert finding.message.startswith("stage 01-distill: ")


def test_student_without_a_chat_template(project):
    make_base(project)
    finding = project.finding()
    assert (finding.code, finding.severity, finding.path) == ("RN303", "error", "model.path")
    assert "has no chat template" in finding.message
    assert "chat_template.jinja" in finding.hint
    (project.folder / "student/chat_template.jinja").write_text(TEMPLATE)
    assert [finding.code for finding in project.findings()] == ["RN318"], "what the hint says helps"


def test_a_template_would_not_help_a_student_with_another_tokenizer(project):
    make_base(project)
    make_model(project.folder / "teacher", seed=3, characters=CHARACTERS + "!")
    assert {finding.code for finding in project.findings()} == {"RN303", "RN310"}


def test_teacher_whose_template_marks_turns_in_another_way(project):
    project.edit_json("student/tokenizer_config.json", chat_template=OTHER_MARKS, eos_token="<|endoftext|>")
    project.edit_json("student/config.json", eos_token_id=TEXT_END)
    project.edit_json("student/generation_config.json", eos_token_id=TEXT_END)
    finding = project.finding()
    assert (finding.code, finding.severity, finding.path) == ("RN319", "warning", "teacher.path")
    assert "marks turns with '<|endoftext|>'" in finding.message
    assert "'<|im_start|>', '<|im_end|>'" in finding.message
    assert "Base models" in finding.hint


def test_teacher_whose_template_writes_other_words_with_the_same_marks(project):
    greeting = "{{ '<|im_start|>system\\nbe kind<|im_end|>\\n' }}" + TEMPLATE
    project.edit_json("teacher/tokenizer_config.json", chat_template=greeting)
    (finding,) = [finding for finding in project.check().findings if finding.code == "RN319"]
    assert (finding.severity, finding.path) == ("info", "teacher.path")
    assert "be kind" in finding.message

"""What `validate` says of a teacher's context."""

import pytest
from tiny import TEMPLATE, row
from tokenizers import Regex, Tokenizer, pre_tokenizers

LONG = "think about it.\n" * 6 + "\n"


@pytest.fixture
def own(project):
    """The student with a context as its own teacher, without rewards."""
    project.config(teacher={"path": "self"}, algorithm={"adv_tau": 0, "teacher_tau": 1, "student_tau": 1})
    return project


def context(text):
    return "teacher.context=" + '"' + text.replace('"', '\\"').replace("\n", "\\n") + '"'


def codes(found):
    return [(finding.code, finding.severity) for finding in found]


def test_a_context_for_all_rows_is_fine_and_planned(own):
    report = own.check(context(LONG))
    assert codes(report.findings) == []
    added = report.plan["teacher_context_tokens"]
    assert added == len(LONG)  # one token a character
    assert report.project.teacher_windows == {"teacher": 128}  # all that the model has
    assert own.check("rollout.max_context_window=26", context("a. \n")).project.teacher_windows == {
        "teacher": 26 + 4 + 8
    }


def test_an_unknown_name_is_told_once_with_file_line_and_known_names(own):
    (own.folder / "c.txt").write_text("Rules.\n{{ metadata.limit }} {{ persona }}\n")
    finding = own.finding("teacher.context_file=c.txt")
    assert (finding.code, finding.severity, finding.file, finding.line) == ("RN260", "error", "c.txt", 2)
    assert "'persona' is undefined; in 18 of 18 rows, the first is train.jsonl:1" in finding.message
    assert "metadata (limit)" in finding.hint
    inline = own.finding(context("{{ metadata.nothing }}\n"))
    assert (inline.code, inline.path) == ("RN260", "teacher.context")
    assert "line 1 of the context: there is no 'nothing'" in inline.message
    assert own.finding("teacher.context_file=missing.txt").file == "missing.txt"


def test_a_context_that_names_the_rows_answer_cannot_be_internalised(own):
    own.rows(*[row(f"{i}+{i}=?", rewards=None, metadata={"answer": str(2 * i % 3)}) for i in range(12)])
    own.rows(row("3+4=?", rewards=None, metadata={"answer": "6"}), file="val.jsonl")
    finding = own.finding(context("the answer is {{ metadata.answer }}.\n\n"))
    assert (finding.code, finding.severity, finding.path) == ("RN264", "warning", "teacher.context")
    assert "the row's own `answer`" in finding.message
    assert own.findings(context("{% if metadata.answer == '1' %}be{% else %}do{% endif %} so.\n")) == []
    numbered = own.finding(context("about {{ messages[0].content }}:\n"))
    assert "another one in 13 of 13 rows" in numbered.message


def test_rows_with_contexts_of_their_own(own):
    own.rows(*[row(f"{i}+{i}=?", rewards=None, teacher_context="be short.\n\n") for i in range(12)])
    assert codes(own.findings()) == []  # no RN134: the teacher is not the student
    own.rows(*[row(f"{i}+{i}=?", rewards=None, teacher_context=f"{i * 7 + 100}.\n") for i in range(12)])
    assert codes(own.findings()) == [("RN264", "warning")]


def test_seams(own):
    loose = own.check(context("Think")).findings
    assert codes(loose) == [("RN262", "info")]
    assert "nothing stands between them" in loose[0].message
    tokenizer = Tokenizer.from_file(str(own.folder / "student" / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("user|assistant|system| ?\\w|[\\s\\S]"), "isolated")
    tokenizer.save(str(own.folder / "student" / "tokenizer.json"))
    (inside,) = own.check(context("think ")).findings
    assert "inside a token" in inside.message
    spaced = TEMPLATE.replace("assistant\\n", "assistant ")
    own.edit_json("student/tokenizer_config.json", chat_template=spaced)
    finding = own.finding(context("think.\n"))
    assert (finding.code, finding.severity) == ("RN261", "error")
    assert "a reply that begins with 'The' would be one token with it" in finding.message


def test_a_context_that_does_not_fit(own):
    finding = own.finding(context("a" * 200 + "\n"))
    assert (finding.code, finding.severity) == ("RN263", "error")
    assert "no token of a reply could be scored" in finding.message
    finding = own.finding(context(LONG), "rollout.max_tokens=40", "data.val_file=null")
    assert (finding.code, finding.severity, finding.file) == ("RN263", "warning", "train.jsonl")
    assert "teacher/unscored_tokens" in finding.hint


def test_a_context_that_switches_thinking(own):
    switched = "{% if 'no think' in messages[0].content %}{{ 'think?\\n' }}{% endif %}{% endif %}"
    own.edit_json(
        "student/tokenizer_config.json", chat_template=TEMPLATE.removesuffix("{% endif %}") + switched
    )
    assert codes(own.findings(context("do think.\n"))) == []
    assert codes(own.findings(context("no think.\n"))) == [("RN265", "error")]
    assert codes(own.findings(context("short /no_think\n"))) == [("RN265", "warning")]


def test_the_documents_modes_and_their_contradiction(own):
    pure = ["algorithm.teacher_tau=1.0", "algorithm.student_tau=0.5", "algorithm.skip_verification=true"]
    finding = own.finding(*pure, context("think.\n"))
    assert (finding.code, finding.severity) == ("RN130", "warning")
    assert "to the power 2, renormalised" in finding.message
    assert codes(own.findings(*pure, "algorithm.adv_tau=0.5", context("think.\n")))[0] == ("RN116", "error")


def test_a_server_pays_for_a_long_context_in_every_rollout(own):
    own.edit_json("student/config.json", max_position_embeddings=2048)
    found = own.check(context("think.\n" * 50), "rollout.engine=vllm").findings
    said = next(finding for finding in found if finding.code == "RN266")
    assert said.severity == "info"
    assert f"{350 * 8} tokens a step" in said.message

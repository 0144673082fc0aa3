"""The teacher's context: byte for byte as written, or made from a row; and where it stands."""

import json

import pytest

from rnow_core.data.rows import load_prompts
from rnow_core.data.teacher_context import ContextError, TeacherContext, load_context, with_context
from rnow_core.errors import FindingsError
from rnow_core.types import Prompt

USER = {"role": "user", "content": "2+2=?"}
SYSTEM = {"role": "system", "content": "be short"}


def prompt(*messages, **fields):
    return Prompt(0, messages or (USER,), "train.jsonl", 7, **fields)


@pytest.mark.parametrize("text", ["think. ", "\n a\r\nb\tc \n\n", "{ x } 100 % # }} %}", "\ufefft", "a\n"])
def test_text_without_a_template_is_taken_byte_for_byte(text, tmp_path):
    (tmp_path / "c.txt").write_bytes(text.encode())
    assert load_context(text, None, "user", tmp_path).of(prompt()) == text
    assert load_context(None, "c.txt", "user", tmp_path).of(prompt()) == text.removeprefix("\ufeff")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("You are {{ metadata.persona }}.\n\n", "You are Ada.\n\n"),
        ("{{ metadata.persona }}\r\n{{ variables.n }}\r\n", "Ada\r\n3\r\n"),
        ("{% for e in examples %}Q: {{ e.q }}\nA: {{ e.a }}\n\n{% endfor %}", "Q: 1\nA: 2\n\nQ: 3\nA: 4\n\n"),
        ("{{ messages[0].content }} {{ metadata | tojson }}", '2+2=? {"persona": "Ada", "tag": "<é>"}'),
        ("{% if env is defined %}{{ env }}{% else %}none{% endif %}", "none"),
        ("{{ metadata.tag }}{# note #}\n", "<é>\n"),
    ],
)
def test_a_template_is_made_from_the_row(template, expected):
    examples = [{"q": 1, "a": 2}, {"q": 3, "a": 4}]
    row = prompt(metadata={"persona": "Ada", "tag": "<é>"}, variables={"n": 3}, extra={"examples": examples})
    assert TeacherContext(template).of(row) == expected


@pytest.mark.parametrize(
    ("template", "line", "said"),
    [
        ("a\n{{ answer }}", 2, "'answer' is undefined"),
        ("{{ metadata.answer }}", 1, "there is no 'answer'"),
        ("{{ metadata.empty }}", 1, "null"),
        ("\n\n{{ metadata.persona + 1 }}", 3, "str"),
        ("a\n\n{% if %}", 3, "not a valid template"),
        ("{{ ''.__class__.__mro__ }}", 1, "unsafe"),
    ],
)
def test_what_a_row_does_not_have_is_named_with_the_line_and_what_it_has(template, line, said):
    with pytest.raises(ContextError, match=said) as error:
        TeacherContext(template).of(prompt(metadata={"persona": "Ada", "empty": None}))
    assert error.value.line == line
    if "valid" not in said:
        assert "train.jsonl:7" in error.value.message
        assert "messages, metadata (persona, empty), variables" in error.value.hint


def test_a_rows_own_context_replaces_it_as_written():
    context = TeacherContext("rules\n\n")
    assert context.of(prompt(teacher_context="{{ x }}")) == "{{ x }}"
    silent = prompt(teacher_context="")
    assert context.in_front_of(silent) is silent
    assert TeacherContext().in_front_of(prompt(teacher_context="a ")).messages[0]["content"] == "a 2+2=?"


def test_it_stands_in_front_of_the_first_message_of_its_role():
    turns = (SYSTEM, USER, {"role": "assistant", "content": "4"}, {"role": "user", "content": "3+3=?"})
    assert with_context(turns, "c ", "user") == (SYSTEM, {**USER, "content": "c 2+2=?"}, *turns[2:])
    assert with_context(turns, "c ", "system") == ({**SYSTEM, "content": "c be short"}, *turns[1:])
    assert with_context((USER,), "c ", "system") == ({"role": "system", "content": "c "}, USER)
    parts = {"role": "user", "content": [{"type": "text", "text": "2+2=?"}]}
    (joined,) = with_context((parts,), "c ", "user")
    assert joined["content"] == [{"type": "text", "text": "c "}, *parts["content"]]
    assert USER["content"] == "2+2=?"


def test_files_that_cannot_be_a_context(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, said in (("empty.txt", "empty"), ("latin.txt", "UTF-8"), ("none.txt", "cannot be read")):
        with pytest.raises(ContextError, match=said):
            load_context(None, name, "user", tmp_path)


def test_rows_may_bring_a_text_and_nothing_else(tmp_path):
    rows = [{"messages": [USER], "teacher_context": value} for value in ("a\n", "", None)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_prompts([tmp_path / "train.jsonl"], dataset_type="distill", need_rewards=False)
    assert [row.teacher_context for row in loaded] == ["a\n", "", None]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": [USER], "teacher_context": ["a"]}) + "\n")
    with pytest.raises(FindingsError, match=r"teacher_context: got a list.*expected a text"):
        load_prompts([tmp_path / "train.jsonl"], dataset_type="distill", need_rewards=False)

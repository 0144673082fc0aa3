"""Reading train.jsonl: every bad line is found, with its line and JSON path."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnow_core.data.rows import load_prompts
from rnow_core.errors import FindingsError

USER = {"role": "user", "content": "What is 2+2?"}
GOOD = {"messages": [USER]}


def write(folder, *rows, name="train.jsonl"):
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    (folder / name).write_bytes(b"\n".join(lines) + b"\n")


def load(folder, *names, kind="distill", need_rewards=False):
    paths = [Path(name) for name in names or ("train.jsonl",)]
    return load_prompts(paths, dataset_type=kind, need_rewards=need_rewards, root=folder)


def findings(folder, *rows, **options):
    write(folder, *rows)
    with pytest.raises(FindingsError) as caught:
        load(folder, **options)
    return caught.value.findings


def test_a_full_row(tmp_path):
    row = {
        "messages": [{"role": "system", "content": "Be brief."}, {**USER, "weight": 2}],
        "rewards": ["accuracy"],
        "tools": ["browse"],
        "docker": "local/crawl4ai",
        "docker_env": {"A": "1"},
        "metadata": {"answer": "4", "n": [1]},
        "variables": {"x": 1},
        "teacher": "math",
        "env": "sums",
        "difficulty": 3,
    }
    write(tmp_path, GOOD, b"  ", row)
    plain, full = load(tmp_path)
    assert (plain.index, plain.line, plain.file, plain.dataset) == (0, 1, "train.jsonl", 0)
    assert (plain.tools, plain.rewards, plain.docker, dict(plain.extra)) == (None, (), None, {})
    assert (full.index, full.line) == (1, 3)
    assert full.messages == tuple(row["messages"])
    assert full.rewards == ("accuracy",)
    assert full.tools == ("browse",)
    assert (full.docker, full.docker_env) == ("local/crawl4ai", {"A": "1"})
    assert (full.metadata, full.variables) == (row["metadata"], {"x": 1})
    assert (full.teacher, full.env) == ("math", "sums")
    assert full.extra == {"difficulty": 3}


def test_several_files_are_numbered_through(tmp_path):
    (tmp_path / "more").mkdir()
    write(tmp_path, GOOD, GOOD)
    write(tmp_path, GOOD, name="more/b.jsonl")
    rows = load(tmp_path, "train.jsonl", "more/b.jsonl")
    assert [(row.index, row.file, row.line, row.dataset) for row in rows] == [
        (0, "train.jsonl", 1, 0),
        (1, "train.jsonl", 2, 0),
        (2, "more/b.jsonl", 1, 1),
    ]


def test_null_counts_as_absent(tmp_path):
    message = {**USER, "tool_calls": None, "tool_call_id": None, "name": None, "reasoning_content": None}
    keys = ("rewards", "tools", "docker", "docker_env", "metadata", "variables", "teacher", "env")
    write(tmp_path, {"messages": [message], **dict.fromkeys(keys)})
    (row,) = load(tmp_path)
    assert row.messages == (USER,)
    assert (row.tools, row.metadata, dict(row.extra)) == (None, {}, {})


def test_dollar_names_in_text_stay_as_they_are(tmp_path):
    write(tmp_path, {"messages": [{"role": "user", "content": "$x costs ${y}"}], "variables": {"x": 1}})
    assert load(tmp_path)[0].messages[0]["content"] == "$x costs ${y}"


BAD = {
    "no messages": ({"metadata": {}}, "RN206", "messages"),
    "null messages": ({"messages": None}, "RN206", "messages"),
    "a bad message": ({"messages": [{"role": "usr", "content": ""}]}, "RN208", "messages[0].role"),
    "rewards a string": ({**GOOD, "rewards": "accuracy"}, "RN207", "rewards"),
    "rewards of numbers": ({**GOOD, "rewards": ["a", 1]}, "RN207", "rewards[1]"),
    "tools an object": ({**GOOD, "tools": {}}, "RN207", "tools"),
    "empty docker": ({**GOOD, "docker": ""}, "RN207", "docker"),
    "docker_env alone": ({**GOOD, "docker_env": {"A": "1"}}, "RN210", "docker_env"),
    "docker_env of numbers": ({**GOOD, "docker": "x", "docker_env": {"A": 1}}, "RN207", "docker_env.A"),
    "metadata a list": ({**GOOD, "metadata": []}, "RN207", "metadata"),
    "variables a string": ({**GOOD, "variables": "x"}, "RN207", "variables"),
    "teacher a number": ({**GOOD, "teacher": 1}, "RN207", "teacher"),
    "a list": ([USER], "RN205", None),
    "a number": (3, "RN205", None),
    "broken": (b'{"messages": [', "RN204", None),
    "not a number": (b'{"messages": [{"role": "user", "content": "x"}], "n": NaN}', "RN204", None),
    "too deep": (b"[" * 100_000, "RN204", None),
    "latin-1": ('{"messages": "Z\xfcrich"}'.encode("latin-1"), "RN203", None),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "RN203", None),
}


@pytest.mark.parametrize("case", BAD)
def test_each_bad_row_is_found_in_the_middle(tmp_path, case):
    row, code, path = BAD[case]
    (finding,) = findings(tmp_path, GOOD, row, GOOD)
    assert (finding.code, finding.path) == (code, path)
    assert (finding.file, finding.line, finding.severity) == ("train.jsonl", 2, "error")


def test_all_bad_lines_are_raised_together(tmp_path):
    write(tmp_path, GOOD, b"{", GOOD, {"messages": [{"role": "usr", "content": 1}]}, GOOD)
    write(tmp_path, {}, name="b.jsonl")
    with pytest.raises(FindingsError) as caught:
        load(tmp_path, "train.jsonl", "b.jsonl", "c.jsonl")
    places = [(f.where(), f.path) for f in caught.value.findings]
    assert places == [
        ("train.jsonl:2:2", None),
        ("train.jsonl:4", "messages[0].role"),
        ("train.jsonl:4", "messages[0].content"),
        ("b.jsonl:1", "messages"),
        ("c.jsonl", None),
    ]


def test_the_column_of_a_broken_line(tmp_path):
    (finding,) = findings(tmp_path, GOOD, b'{"messages": [], }')
    assert finding.where().startswith("train.jsonl:2:1")
    assert finding.col in (16, 17, 18)


def test_rewards_are_needed_only_where_they_train(tmp_path):
    rows = [{**GOOD, "rewards": ["accuracy"]}, GOOD, {**GOOD, "rewards": []}]
    found = findings(tmp_path, *rows, kind="rl", need_rewards=True)
    assert [(f.code, f.line, f.path) for f in found] == [("RN211", 2, "rewards"), ("RN211", 3, "rewards")]
    assert len(load(tmp_path)) == 3


def test_a_missing_file(tmp_path):
    with pytest.raises(FindingsError) as caught:
        load(tmp_path, "data/train.jsonl")
    (finding,) = caught.value.findings
    assert (finding.code, finding.where()) == ("RN201", "data/train.jsonl")
    assert "train_file" in finding.hint


def test_a_folder_instead_of_a_file(tmp_path):
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(FindingsError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n  \n\n"])
def test_an_empty_file(tmp_path, content):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(FindingsError) as caught:
        load(tmp_path)
    (finding,) = caught.value.findings
    assert (finding.code, finding.file, finding.line) == ("RN202", "train.jsonl", None)
    assert '"messages"' in finding.hint


def test_one_json_list_is_one_error(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps([GOOD, GOOD], indent=2))
    with pytest.raises(FindingsError) as caught:
        load(tmp_path)
    (finding,) = caught.value.findings
    assert finding.line == 1
    assert "one JSON object a line" in finding.hint


def test_byte_order_mark_windows_lines_and_odd_line_breaks(tmp_path):
    text = json.dumps({"messages": [{"role": "user", "content": "a\u2028b"}]}, ensure_ascii=False).encode()
    (tmp_path / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text + b"\r\n" + text)
    rows = load(tmp_path)
    assert [row.line for row in rows] == [1, 2]
    assert rows[0].messages[0]["content"] == "a\u2028b"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "tools", "tool_calls", "function", "docker_env"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(row=st.dictionaries(st.sampled_from(["messages", "tools", "docker_env", "x"]), JSON), raw=st.binary())
def test_no_line_crashes_the_reader(tmp_path_factory, row, raw):
    """Whatever a line holds, it is a prompt or a finding."""
    folder = tmp_path_factory.getbasetemp()
    write(folder, row, raw)
    with pytest.raises(FindingsError) as caught:
        load(folder)
    assert all(finding.message and finding.line for finding in caught.value.findings)

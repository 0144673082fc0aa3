import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnow_core.config.yaml_file import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5e-05", 5e-5),
        ("on", "on"),
        ("yes", "yes"),
        ("010", 10),
        ("~", None),
        ("true", True),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("'1'", "1"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("[1, [a, {b: 2}]]", [1, ["a", {"b": 2}]]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    data = parse(f"key: {text}").data
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_places_of_keys_values_and_items_count_from_1():
    parsed = parse("a: 1\nb:\n  c:   x\n  d: [1, {e: 2}]\n")
    assert parsed.places["a",].key == (1, 1)
    assert parsed.places["b", "c"].key == (3, 3)
    assert parsed.places["b", "c"].value == (3, 8)
    assert parsed.places["b", "d", 1].value == (4, 10)
    assert parsed.places["b", "d", 1, "e"].key == (4, 11)


def test_duplicate_keys_are_faults_with_both_places_and_reading_goes_on():
    parsed = parse("a: 1\nb: {c: 1, c: 2}\na: 3\n")
    assert [(f.code, f.line, f.col) for f in parsed.faults] == [("RN105", 2, 11), ("RN105", 3, 1)]
    assert "line 1, column 1" in parsed.faults[1].message
    assert parsed.data == {"a": 1, "b": {"c": 1}}


@pytest.mark.parametrize(
    ("text", "line", "col", "word"),
    [
        ("a:\n\tb: 1", 2, 1, "tab"),
        ("a: [1,", 1, 7, "YAML"),
        ("a: 1\n b: 2", 2, 3, "key: value"),
        ("a: 1\n---\nb: 2", 2, 1, "document"),
        ("a: *x", 1, 4, "alias"),
        ("a: &x [*x]", 1, 4, "alias"),
        ("a: !!python/name:os x", 1, 4, "tag"),
        ("? [a]\n: 1", 1, 3, "key"),
        ("a: 1\nb: \0", 2, 4, "U+0000"),
    ],
)
def test_broken_text_is_a_fault_with_its_place(text, line, col, word):
    (fault,) = parse(text).faults
    assert (fault.line, fault.col) == (line, col)
    assert word in fault.message


def test_an_alias_is_its_anchors_value():
    assert parse("a: &x {b: 1}\nc: *x").data == {"a": {"b": 1}, "c": {"b": 1}}


@given(st.text(alphabet="\0 \t\n:-[]{}&*!|>'\"#%@`,?ab01.\\", max_size=40))
def test_no_text_makes_it_raise(text):
    parsed = parse(text)
    assert all(fault.line >= 1 and fault.col >= 1 for fault in parsed.faults)
